// The page of the review. Names and reasons come from files: they become text, never HTML.

const $ = (id) => document.getElementById(id);
const NAMES = { real: "real", contour: "contour", made: "synthetic" };
const SCORES = { judge_confidence: "judge", confidence: "guide", contour_agreement: "contour", sharpness: "sharp" };
const KEYS = [
  ["A", "accept"], ["R", "reject"], ["X", "take a verdict by hand back"], ["Z", "undo"],
  ["arrows", "move"], ["Enter", "large, and back"], ["Esc", "close"], ["1 to 6", "what to show"],
];
const VIEWS = [
  ["all", "All", () => true],
  ["accepted", "Accepted", (image) => image.accepted],
  ["rejected", "Rejected", (image) => !image.accepted],
  ["moves", "Would change", (image) => moves(image)],
  ["twins", "Near-duplicates", (image) => verdictOf(image).like != null],
  ["hand", "By hand", (image) => image.human],
];
const GAP = 10;
const HEADING = 44;
const WORDS = 38;
const PAUSE = 60; // milliseconds that a card stays in sight before its pictures are asked for
const POLL = 4000;
const MOST_UNDO = 200;
const WAIT = 409; // the answer while a run is judging images

const state = {
  data: null, images: [], verdicts: {}, rules: {}, view: "all", class: null, shown: [], at: 0,
  rows: [], cards: new Map(), undo: [], queue: Promise.resolve(), columns: 1, side: 96,
};

// --- Talking to the server.

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { status: answer.status });
  return found;
}

function said(error) {
  const box = $("message");
  box.textContent = error.message ?? error;
  box.hidden = false;
  clearTimeout(said.timer);
  said.timer = setTimeout(() => { box.hidden = true; }, 8000);
}

// One change after the other, in the order in which they were made.
function change(action) {
  state.queue = state.queue.then(action).catch(said);
  return state.queue;
}

// --- Elements.

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value != null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null)); // strings become text
  return made;
}

const words = (name) => {
  const [, kind, rest] = name.match(/^(min|max|require)_(.*)$/) ?? [];
  const text = (rest ?? name).replaceAll("_", " ").replace("top1", "first choice");
  return text + ({ min: " ≥", max: " ≤" }[kind] ?? "");
};
const number = (value) => (Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

// --- Verdicts.

const verdictOf = (image) => state.verdicts[image.number] ?? { accepted: image.accepted, reason: image.reason };
const moves = (image) => verdictOf(image).accepted !== image.accepted;

function pictureOf(image, kind, size = "small") {
  const about = { dataset: state.data.name, key: image.key, index: image.index, kind, size, v: image.v };
  return `picture?${new URLSearchParams(about)}`;
}

function figure(image, kind, size, caption = NAMES[kind]) {
  const picture = make("img", { alt: `${caption}: ${image.class_name}`, decoding: "async", draggable: "false" });
  picture.dataset.src = pictureOf(image, kind, size);
  picture.classList.toggle("tiny", Math.max(image.width ?? 999, image.height ?? 999) <= 128);
  return make("figure", { class: kind }, picture, make("figcaption", {}, caption));
}

function loadPictures(box) {
  for (const picture of box.querySelectorAll("img[data-src]:not([src])")) picture.src = picture.dataset.src;
}

function figures(image, size) {
  const like = verdictOf(image).like;
  if (like == null || (size === "small" && state.view !== "twins"))
    return state.data.pictures.map((kind) => figure(image, kind, size));
  const twin = figure(state.images[like], "made", size, "earlier image");
  twin.className = "twin";
  const rest = size === "small" ? [] : state.data.pictures.filter((kind) => kind !== "made");
  return [...rest.map((kind) => figure(image, kind, size)), twin, figure(image, "made", size)];
}

// --- The grid: only the rows in sight exist.

function layOut() {
  const width = $("grid").clientWidth - 12 - GAP;
  const count = state.view === "twins" ? 2 : state.data.pictures.length;
  const least = Math.max(180, 98 * count + 20);
  state.columns = Math.max(1, Math.floor(width / (least + GAP)));
  state.width = Math.floor(width / state.columns) - GAP;
  state.side = (state.width - 18 - 4 * (count - 1)) / count;
  state.rows = [];
  let top = 0;
  let place = 0;
  for (const group of groups()) {
    state.rows.push({ top, height: HEADING, group });
    top += HEADING;
    for (let first = 0; first < group.images.length; first += state.columns) {
      const height = state.side + WORDS + 16 + GAP;
      state.rows.push({ top, height, images: group.images.slice(first, first + state.columns), place });
      place += Math.min(state.columns, group.images.length - first);
      top += height;
    }
  }
  state.shown = groups().flatMap((group) => group.images);
  state.at = Math.max(0, Math.min(state.at, state.shown.length - 1));
  $("sheet").style.height = `${top + 20}px`;
  $("sheet").replaceChildren();
  state.cards.clear();
  const empty = state.view === "moves" ? "No image would change under these rules." : "No image is like this.";
  $("empty").textContent = state.images.length ? empty : "This dataset has no images yet.";
  $("empty").hidden = state.shown.length > 0;
  draw();
}

function groups() {
  const [, , fits] = VIEWS.find(([name]) => name === state.view);
  const byClass = new Map(state.data.classes.map((name) => [name, []]));
  for (const image of state.images)
    if ((state.class == null || image.class_name === state.class) && fits(image)) {
      if (!byClass.has(image.class_name)) byClass.set(image.class_name, []);
      byClass.get(image.class_name).push(image);
    }
  return [...byClass].filter(([, images]) => images.length).map(([name, images]) => ({ name, images }));
}

function draw() {
  const { scrollTop, clientHeight } = $("grid");
  const from = scrollTop - 300;
  const to = scrollTop + clientHeight + 300;
  let first = 0;
  let last = state.rows.length;
  while (first < last) {
    const middle = (first + last) >> 1;
    if (state.rows[middle].top + state.rows[middle].height < from) first = middle + 1;
    else last = middle;
  }
  const wanted = new Map();
  for (let row = first; row < state.rows.length && state.rows[row].top < to; row += 1) {
    const { top, group, images = [], place } = state.rows[row];
    if (group) wanted.set(`class ${group.name}`, () => heading(top, group));
    images.forEach((image, column) => wanted.set(image.number, () => card(image, top, column, place + column)));
  }
  for (const [key, element] of state.cards)
    if (!wanted.has(key)) {
      element.remove();
      state.cards.delete(key);
    }
  for (const [key, build] of wanted)
    if (!state.cards.has(key)) {
      const element = build();
      state.cards.set(key, element);
      $("sheet").append(element);
    }
  clearTimeout(draw.timer);
  draw.timer = setTimeout(() => loadPictures($("sheet")), PAUSE);
}

function heading(top, { name, images }) {
  const stay = images.filter((image) => verdictOf(image).accepted).length;
  const counts = make("span", {}, `${stay} of ${images.length} stay`);
  const title = make("div", { class: "class", "data-testid": "class" }, name, counts);
  title.style.top = `${top}px`;
  return title;
}

function card(image, top, column, place) {
  const pictures = make("div", { class: "pictures" }, ...figures(image, "small"));
  const made = make("div", { class: "card", "data-number": image.number, "data-testid": "card" }, pictures, about(image));
  made.style.cssText = `top: ${top}px; left: ${12 + column * (state.width + GAP)}px; width: ${state.width}px`;
  made.addEventListener("click", () => { choose(place); });
  made.addEventListener("dblclick", () => { choose(place); enlarge(); });
  mark(made, image, place);
  return made;
}

function mark(made, image, place) {
  made.classList.toggle("rejected", !verdictOf(image).accepted);
  made.classList.toggle("moves", moves(image));
  made.classList.toggle("chosen", place === state.at);
}

function about(image) {
  return make("div", { class: "words" }, make("div", {}, scoresOf(image)), outcome(image));
}

function scoresOf(image) {
  const found = Object.entries(SCORES).filter(([name]) => image.scores[name] != null);
  return found.slice(0, 3).map(([name, label]) => `${label} ${number(image.scores[name])}`).join("  ·  ") || "no scores";
}

function outcome(image) {
  const { accepted, reason } = verdictOf(image);
  if (moves(image)) return make("div", { class: "note" }, accepted ? "comes back" : `goes: ${reason}`);
  const text = image.human ? `${reason}, ${image.human.at.slice(0, 10)}` : accepted ? "accepted" : reason;
  return make("div", { class: accepted ? "good" : "bad", title: reason }, text);
}

function choose(place) {
  if (!state.shown.length) return;
  state.at = Math.max(0, Math.min(place, state.shown.length - 1));
  const row = state.rows.find((one) => one.images && one.place <= state.at && state.at < one.place + one.images.length);
  const grid = $("grid");
  if (row.top < grid.scrollTop + 8) grid.scrollTop = row.place ? row.top - 8 : 0;
  else if (row.top + row.height > grid.scrollTop + grid.clientHeight) grid.scrollTop = row.top + row.height - grid.clientHeight;
  draw();
  for (const [key, element] of state.cards) element.classList.toggle("chosen", key === state.shown[state.at].number);
  if ($("large").open) enlarge();
}

// --- The rest of the page.

function refresh() {
  const stay = state.images.filter((image) => verdictOf(image).accepted).length;
  const going = state.images.filter(moves).length;
  const count = (value, text, kind) => make("span", { class: kind }, make("b", {}, String(value)), text);
  const moving = going ? count(going, "would change", "note") : null;
  $("counts").replaceChildren(count(stay, "stay", "good"), count(state.images.length - stay, "go", "bad"), moving ?? "");
  $("bar").firstElementChild.style.width = `${(100 * stay) / Math.max(1, state.images.length)}%`;
  const altered = state.data.rules.some(({ name, value }) => state.rules[name] !== value);
  $("apply").hidden = !altered && !going;
  $("reset").hidden = !altered;
  $("undo").disabled = !toUndo();
  $("accept").disabled = $("reject").disabled = !state.images.length;
  $("places").textContent = `Accepted images are in ${state.data.name}/train, the others in ${state.data.name}/rejected.`;
  const views = VIEWS.map(([name, label, fits], place) => {
    const show = () => { state.view = name; state.at = 0; $("grid").scrollTop = 0; refresh(); };
    const pressed = { "aria-pressed": String(state.view === name), title: `Key ${place + 1}`, "data-view": name };
    const total = state.images.filter(fits).length;
    return make("button", { ...pressed, onclick: show }, make("span", {}, label), make("span", {}, String(total)));
  });
  $("views").replaceChildren(...views);
  drawClasses();
  layOut();
}

function drawClasses() {
  const counts = new Map(state.data.classes.map((name) => [name, [0, 0]]));
  for (const image of state.images) {
    const found = counts.get(image.class_name) ?? [0, 0];
    counts.set(image.class_name, [found[0] + verdictOf(image).accepted, found[1] + 1]);
  }
  const button = (name, label, text) => {
    const show = () => { state.class = name; state.at = 0; $("grid").scrollTop = 0; refresh(); };
    const pressed = { "aria-pressed": String(state.class === name), title: label };
    return make("button", { ...pressed, onclick: show }, make("span", {}, label), make("span", {}, text));
  };
  const some = [...counts].map(([name, [stay, all]]) => button(name, name, `${stay} / ${all}`));
  $("classes").replaceChildren(button(null, "All classes", ""), ...some);
}

function drawRules() {
  $("rules").replaceChildren(...state.data.rules.map((rule) => {
    const value = make("output");
    const isFlag = rule.kind === "bool";
    const range = { type: "range", min: rule.low, max: rule.high, step: rule.step };
    const input = make("input", { ...(isFlag ? { type: "checkbox" } : range), disabled: !rule.measured, "data-rule": rule.name });
    const say = () => {
      const off = state.rules[rule.name] === rule.default;
      value.textContent = !rule.measured ? "not measured" : isFlag ? "" : off ? "off" : number(state.rules[rule.name]);
    };
    if (isFlag) input.checked = state.rules[rule.name];
    else input.value = state.rules[rule.name];
    input.addEventListener("input", () => {
      state.rules[rule.name] = isFlag ? input.checked : Number(input.value);
      say();
      preview();
    });
    say();
    const label = make("span", {}, words(rule.name));
    return make("label", { title: rule.text, class: rule.measured ? "" : "off" }, label, isFlag && rule.measured ? input : value,
      isFlag || !rule.measured ? null : input);
  }));
}

// The latest rules only: a slider moves faster than 10,000 images are judged.
async function preview() {
  preview.wanted = true;
  if (preview.busy) return;
  preview.busy = true;
  try {
    while (preview.wanted) {
      preview.wanted = false;
      const found = await ask("preview", { dataset: state.data.name, rules: state.rules });
      state.verdicts = Object.fromEntries(Object.entries(found.verdicts).map(
        ([place, [accepted, reason, like]]) => [place, { accepted, reason, like }]));
      refresh();
    }
  } catch (error) {
    said(error);
  } finally {
    preview.busy = false;
  }
}

async function open(name) {
  const data = await ask(`dataset?${new URLSearchParams({ name })}`);
  const isNew = state.data?.name !== name;
  Object.assign(state, { data, images: data.images.map((image, place) => ({ ...image, number: place })), verdicts: {} });
  state.rules = Object.fromEntries(data.rules.map((rule) => [rule.name, rule.value]));
  if (isNew) {
    const undo = JSON.parse(sessionStorage.getItem(memory())) ?? [];
    Object.assign(state, { view: "all", class: null, at: 0, undo });
    $("grid").scrollTop = 0;
    history.replaceState(null, "", `?${new URLSearchParams({ dataset: name })}`);
  }
  drawRules();
  await preview();
}

// --- Changes.

function decide(accepted) {
  const image = state.shown[state.at];
  if (!image) return;
  const one = { key: image.key, index: image.index };
  change(async () => {
    const found = await ask("verdict", { dataset: state.data.name, images: [one], accepted });
    remember([...state.undo, { verdicts: found.before }]);
    await take(found);
  });
  if (accepted != null) choose(state.at + 1);
}

async function take({ now, version }) {
  for (const row of now) {
    const image = placed(row);
    Object.assign(image, row);
    delete state.verdicts[image.number];
  }
  state.data.version = version;
  const { number } = state.shown[state.at] ?? {};
  await preview();
  chooseImage(state.images[number]);
}

const placed = (row) => state.images.find(({ key, index }) => key === row.key && index === row.index);

async function undoVerdicts(before) {
  for (const { key, index, accepted } of before)
    await take(await ask("verdict", { dataset: state.data.name, images: [{ key, index }], accepted }));
  chooseImage(placed(before[0]));
}

function chooseImage(image) {
  const place = state.shown.indexOf(image);
  if (place >= 0) choose(place);
}

async function undoRules(rules) {
  const dataset = state.data.name;
  await ask("filter", { dataset, rules });
  await open(dataset);
}

function applyRules() {
  change(async () => {
    const dataset = state.data.name;
    const found = await ask("filter", { dataset, rules: state.rules });
    remember([...state.undo, { rules: found.before }]);
    await open(dataset);
    said(`${found.accepted} came back, ${found.rejected} went. Undo takes it back.`);
  });
}

// --- Undo. It outlives the page: the browser keeps it as long as the tab, and verdicts by hand have dates.

const memory = () => `higfa-review ${state.data.name}`;

function remember(undo) {
  state.undo = undo.slice(-MOST_UNDO);
  sessionStorage.setItem(memory(), JSON.stringify(state.undo));
}

function toUndo() {
  if (state.undo.length) return state.undo.at(-1);
  const hand = state.images.filter((image) => image.human);
  const last = hand.reduce((one, other) => (other.human.at > (one?.human.at ?? "") ? other : one), null);
  return last && { verdicts: [{ key: last.key, index: last.index, accepted: null }] };
}

function undo() {
  change(async () => {
    const back = toUndo();
    if (!back) return;
    const rest = state.undo.slice(0, -1);
    try {
      await (back.rules ? undoRules(back.rules) : undoVerdicts(back.verdicts));
      remember(rest);
    } catch (error) {
      if (error.status !== WAIT) remember(rest); // else it is still to be undone
      throw error;
    } finally {
      refresh();
    }
  });
}

// --- One image, large.

function enlarge() {
  const image = state.shown[state.at];
  if (!image) return;
  const { accepted, reason, like } = verdictOf(image);
  const facts = Object.entries(image.scores).filter(([name, value]) => value != null && name !== "phash").flatMap(
    ([name, value]) => [make("span", {}, name.replaceAll("_", " ")), make("span", {}, String(typeof value === "number" ? number(value) : value))]);
  const button = (label, key, press) => make("button", { onclick: press }, label, make("kbd", {}, key));
  const box = $("large");
  const parts = [
    make("h3", {}, image.class_name, make("span", { class: accepted ? "good" : "bad" }, accepted && !image.human ? "accepted" : reason)),
    make("div", { class: "pictures" }, ...figures(image, "large")),
    make("div", { class: "facts" }, ...facts),
    make("p", { class: "long" }, `${state.at + 1} of ${state.shown.length}, ${image.width} x ${image.height}, seed ${image.seed}${image.source ? `, real image ${image.source}` : ""}`),
    make("p", { class: "long" }, image.prompt ?? ""),
    like == null ? null : make("p", { class: "note" }, "It resembles the earlier image beside it."),
    make("nav", {}, button("Accept", "A", () => decide(true)), button("Reject", "R", () => decide(false)),
      button("As the rules say", "X", () => decide(null)), button("Close", "Esc", () => box.close())),
  ];
  box.replaceChildren(...parts.filter((part) => part));
  loadPictures(box);
  if (!box.open) box.showModal();
}

function showKeys() {
  const rows = KEYS.map(([key, text]) => make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, text)));
  $("keys").replaceChildren(make("table", {}, ...rows));
  $("keys").showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key.toLowerCase() === "z") undo();
    return;
  }
  if (event.target.matches("select, input[type=range]") && event.key.startsWith("Arrow")) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -state.columns, ArrowDown: state.columns };
  const actions = { a: () => decide(true), r: () => decide(false), x: () => decide(null), z: undo, "?": showKeys };
  actions.Enter = () => ($("large").open ? $("large").close() : enlarge());
  actions.Home = () => choose(0);
  actions.End = () => choose(state.shown.length - 1);
  for (const [place] of VIEWS.entries()) actions[place + 1] = () => $("views").children[place].click();
  const isButton = event.key === "Enter" && event.target.matches("button");
  const action = steps[event.key] ? () => choose(state.at + steps[event.key]) : actions[event.key.length > 1 ? event.key : event.key.toLowerCase()];
  if (!action || isButton || !state.data) return;
  event.preventDefault();
  action();
});

$("grid").addEventListener("scroll", () => requestAnimationFrame(draw));
$("dataset").addEventListener("change", (event) => open(event.target.value).catch(said));
$("apply").addEventListener("click", applyRules);
$("accept").addEventListener("click", () => decide(true));
$("reject").addEventListener("click", () => decide(false));
$("undo").addEventListener("click", undo);
$("help").addEventListener("click", showKeys);
$("reset").addEventListener("click", () => {
  state.rules = Object.fromEntries(state.data.rules.map((rule) => [rule.name, rule.value]));
  drawRules();
  preview();
});
new ResizeObserver(() => state.data && layOut()).observe($("grid"));

// A run may add images meanwhile.
setInterval(async () => {
  if (document.hidden || !state.data || $("large").open) return;
  const { name, version } = state.data;
  const altered = state.data.rules.some((rule) => state.rules[rule.name] !== rule.value);
  if (!altered) change(async () => {
    const found = await ask(`dataset?${new URLSearchParams({ name, version: state.data.version ?? version })}`);
    if (!found.same && state.data.name === name) await open(name);
  });
}, POLL);

async function begin() {
  const { datasets } = await ask("datasets");
  const wanted = new URLSearchParams(location.search).get("dataset");
  $("dataset").replaceChildren(...datasets.map((name) => make("option", { value: name }, name)));
  const name = datasets.includes(wanted) ? wanted : datasets[0];
  if (!name) {
    $("empty").textContent = "No dataset yet. Export Dataset makes one when a workflow runs.";
    $("empty").hidden = false;
    return;
  }
  $("dataset").value = name;
  await open(name);
  $("grid").focus();
}

begin().catch(said);
