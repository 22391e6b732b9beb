// What the HiGFA nodes add to ComfyUI's page: fewer widgets in the classic canvas, choices instead of typing, a chart
// of the guidance, the review of datasets, and after a run that failed the reason and the index that it did not use up.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const isOurs = (node) => node.comfyClass?.startsWith("HiGFA_");

// --- Advanced widgets: the classic canvas can hide them, but is not told which they are, and keeps their space.

const TOGGLE = "higfa_advanced";
const SPACING = 4; // that LiteGraph adds below each widget

function hideAdvanced(node) {
  const linked = new Set(node.inputs?.filter((input) => input.link != null).map((input) => input.widget?.name));
  const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
  for (const widget of advanced.flatMap((widget) => [widget, ...(widget.linkedWidgets ?? [])])) {
    const height = widget.element ? 60 : LiteGraph.NODE_WIDGET_HEIGHT;
    widget.advanced = !linked.has(widget.name);
    widget.computeSize = (width) => [width, node.isWidgetVisible(widget) ? height : -SPACING];
  }
  if (advanced.length) addToggle(node, advanced.length);
}

// A text that a link gives takes one line, and a job names the class of what it exports: nobody is asked for one.
function followLinks(node) {
  for (const { element, name, options } of node.widgets?.filter((widget) => widget.element && widget.serialize !== false) ?? [])
    options.getMinHeight = options.getMaxHeight = isLinked(node, name) ? () => LiteGraph.NODE_WIDGET_HEIGHT : undefined;
  const needless = node.comfyClass === "HiGFA_ExportDataset" && node.widgets.find((widget) => widget.name === "class_name");
  if (!needless) return;
  needless.hidden = needless.options.hidden = isLinked(node, "job");
  needless.computeSize = (width) => [width, needless.hidden ? -SPACING : LiteGraph.NODE_WIDGET_HEIGHT];
}

function addToggle(node, count) {
  if (node.widgets.some((widget) => widget.name === TOGGLE)) return;
  const press = () => {
    node.toggleAdvanced();
    node.setSize([node.size[0], node.computeSize()[1]]);
  };
  const toggle = node.addWidget("button", TOGGLE, null, press, { canvasOnly: true, serialize: false });
  toggle.serialize = false;
  const label = () => (node.showAdvanced ? "Hide advanced inputs" : `Show ${count} advanced inputs`);
  Object.defineProperty(toggle, "label", { get: label, set() {} });
}

// --- The chart of a guided run. The server sends its state while it samples; it also is among the node's outputs.

const CHART = "higfa_guidance";
const GUIDED = ["HiGFA_KSampler", "HiGFA_KSamplerAdvanced", "HiGFA_Guider", "HiGFA_GuideModel"];
const IMAGES = ["#7cc4ff", "#ffb454", "#8fd694", "#f28fad", "#c3a6ff", "#e6d36a", "#6fd6cf", "#d8d8d8"];
const SHARES = [
  ["text", "w_text", "#c8d3e0", ""],
  ["contour", "w_contour", "#8fd694", "5 3"],
  ["classifier", "w_cls", "#ff7a45", ""],
  ["step", "step_rms", "#ffd166", "2 3"],
];
const WIDTH = 240;
const HEIGHT = 44;

function element(name, attributes = {}, ...children) {
  const isSvg = ["svg", "rect", "polyline"].includes(name);
  const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children); // strings become text, never HTML
  return made;
}

function addChart(node) {
  const box = element("div", { style: "font: 12px/1.5 sans-serif; color: #ddd; overflow: hidden" });
  box.append("Run: how the classifier guides is shown here.");
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => 195 };
  node.addDOMWidget(CHART, CHART, box, options).serialize = false;
  after(node, "onExecuted", function (output) {
    if (output?.[CHART]?.[0].text) show(this, output[CHART][0]); // a guider's comes once its sampler has run
  });
}

function show(node, state) {
  app.nodeOutputs[nameOf(node)] = { ...app.nodeOutputs[nameOf(node)], [CHART]: [state] }; // the page keeps these
  const box = node.widgets.find((widget) => widget.name === CHART)?.element;
  const line = element("div", { "data-testid": "higfa-line" }, state.text);
  const warnings = state.warnings.map((text) => element("div", { style: "color: #ffb454" }, text));
  box?.replaceChildren(line, ...warnings, ...probabilities(state), ...shares(state));
}

function probabilities(state) {
  const lineOf = (values) => values.map((value, call) => [state.at[call], value]);
  const lines = state.values.probability.map((values, image) => [lineOf(values), IMAGES[image], ""]);
  const marks = state.targets.map((target, image) => mark(target, IMAGES[image], ""));
  return [element("div", {}, "probability of ", ...marks), panel(state, lines)];
}

// Weights as shares of those of the fixed stage, the classifier's weight as it is, its step as a share of the largest.
function shares(state) {
  const lines = SHARES.flatMap(([, name, color, dash]) => sharesOf(state, name).map((line) => [line, color, dash]));
  const marks = SHARES.map(([text, , color, dash]) => mark(text, color, dash));
  return [element("div", {}, ...marks), panel(state, lines)];
}

function sharesOf(state, name) {
  const fixed = state.fixed[name];
  const most = fixed || Math.max(1e-9, ...state.values[name].flat(), name === "w_cls" ? 1 : 0);
  const start = state.at[0] ?? state.steps;
  const before = fixed ? [[0, 1], [start, 1]] : [];
  const lines = state.values[name].map((values) => values.map((value, call) => [state.at[call], value / most]));
  return (lines.length ? lines : [[]]).map((line) => [...before, ...line]);
}

function panel(state, lines) {
  const x = (step) => (WIDTH * step) / state.steps;
  const y = (value) => HEIGHT - 2 - (HEIGHT - 4) * Math.min(value, 1);
  const [begin, end] = state.stage.map(x);
  const stage = element("rect", { x: begin, width: Math.max(end - begin, 0), height: HEIGHT, fill: "#ff7a4538" });
  const drawn = lines.map(([line, color, dash]) => {
    const points = line.map(([step, value]) => `${x(step)},${y(value)}`).join(" ");
    const style = { fill: "none", stroke: color, "stroke-width": 2, "stroke-dasharray": dash };
    return element("polyline", { points, "vector-effect": "non-scaling-stroke", ...style });
  });
  const style = "display: block; background: #161616; border-radius: 4px; margin: 2px 0 5px";
  const size = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", width: "100%", height: HEIGHT };
  return element("svg", { ...size, style }, stage, ...drawn);
}

function mark(text, color, dash) {
  const line = `underline 2px ${dash ? "dashed" : "solid"} ${color}`;
  const place = "text-underline-offset: 3px; margin-right: 6px; white-space: nowrap";
  return element("span", { style: `text-decoration: ${line}; ${place}` }, text);
}

// As the page names a node among its outputs.
const nameOf = ({ id, graph }) => (graph === (app.rootGraph ?? app.graph) ? String(id) : `${graph.id}:${id}`);

// The page restores a workflow's outputs, also those of its history, after its nodes.
function restore(node) {
  const outputs = (node.graph && app.nodeOutputs[nameOf(node)]) ?? {};
  const [state] = outputs[CHART] ?? [];
  if (state?.text) show(node, state);
  tell(node, outputs.text);
}

function allNodes() {
  const graph = app.rootGraph ?? app.graph;
  return [graph, ...(graph?.subgraphs?.values() ?? [])].flatMap((one) => one?._nodes ?? []);
}

const restoreAll = () => allNodes().filter(isOurs).forEach(restore);

// Inside a sub-graph the server's name of a node is its path, as in 19:10.
function nodeAt(path) {
  const inside = (found, id) => (found?.subgraph ?? found)?.getNodeById(Number(id));
  return path.split(":").reduce(inside, app.rootGraph ?? app.graph);
}

api.addEventListener("higfa.guidance", ({ detail }) => {
  const graph = app.rootGraph ?? app.graph;
  const node = detail.workflow && detail.workflow !== graph.id ? null : nodeAt(detail.node);
  if (GUIDED.includes(node?.comfyClass)) show(node, detail.state);
});

// --- What a finished node has to say: how many images were written, which were rejected and why.

const TEXT = "higfa_text";
const TELLING = {  // and how high its words are
  HiGFA_ExportDataset: 52,
  HiGFA_LoadMiniature: 86,
  HiGFA_TrainClassifier: 86,
  HiGFA_CheckClassifier: 52,
  HiGFA_ClassifyImages: 52,
};

function addText(node) {
  const style = "font: 12px/1.4 sans-serif; color: #ddd; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere";
  const box = element("div", { style, "data-testid": "higfa-text" }, "Run: what came of it is said here.");
  node.addDOMWidget(TEXT, TEXT, box, { serialize: false, hideOnZoom: false, getMinHeight: () => TELLING[node.comfyClass] }).serialize = false;
  after(node, "onExecuted", function (output) {
    tell(this, output?.text);
  });
}

function tell(node, text) {
  const box = node.widgets.find((widget) => widget.name === TEXT)?.element;
  const lines = [].concat(text ?? []).join("\n");
  if (lines) box?.replaceChildren(lines.replace(/ {2,}/g, " · ")); // columns do not line up in this font
}

// --- Choices: beside a text that names a folder or a class, a list of those that there are.

const CHOOSE = "choose ...";
const FOLDERS = {
  HiGFA_DatasetJob: { dataset: "datasets", plan: "plans" },
  HiGFA_TrainClassifier: { dataset: "datasets" },
  HiGFA_CheckClassifier: { dataset: "datasets" },
};
const CLASSES = [...GUIDED, "HiGFA_ClassifyImages", "HiGFA_ExportDataset"];

const ORIGINS = { HiGFA_LoadClassifier: "classifier_name", HiGFA_TrainClassifier: "dataset", HiGFA_DatasetJob: "dataset" };

function addChoosers(node) {
  const told = node.widgets?.find((widget) => widget.name === ORIGINS[node.comfyClass]);
  if (told) after(told, "callback", refreshChoices);
  const folders = Object.entries(FOLDERS[node.comfyClass] ?? {});
  const lists = folders.map(([name, kind]) => ({ name, question: () => [kind, ""] }));
  if (CLASSES.includes(node.comfyClass)) lists.push({ name: "class_name", question: () => classesFor(node) });
  if (node.comfyClass === "HiGFA_DatasetJob") {
    const batch = () => valueOf(node, "batch") || 1;
    lists.push({ name: "index", label: "class", question: () => turnsOf(node), taken: (place) => Math.floor(place / batch()) });
  }
  node.refreshChoices = () => lists.forEach((list) => offer(node, list));
}

const valueOf = (node, name) => node.widgets.find((widget) => widget.name === name)?.value ?? "";
const isLinked = (node, name) => node.inputs.find((one) => one.name === name)?.link != null;

async function offer(node, list) {
  const { name, label = name, question, taken } = list;
  const turn = (list.turn = (list.turn ?? 0) + 1);
  const needless = isLinked(node, name) || (name === "class_name" && isLinked(node, "job"));
  const [kind, of] = (!needless && question()) || [];
  const answer = kind && (await api.fetchApi(`/higfa/choices/${kind}?name=${encodeURIComponent(of)}`));
  const { choices = [] } = answer?.ok ? await answer.json() : {};
  if (turn !== list.turn) return; // a later question has overtaken this one
  const known = node.widgets.find((widget) => widget.name === `choose ${label}`);
  if (choices.length) (known ?? addChooser(node, name, label, taken)).options.values = [CHOOSE, ...choices];
  else if (known) node.widgets.splice(node.widgets.indexOf(known), 1);
  node.setDirtyCanvas(true);
}

// A choice stands in the text beside it; `taken` makes another value of its place in the list.
function addChooser(node, name, label, taken) {
  const told = node.widgets.find((widget) => widget.name === name);
  const choose = (choice) => {
    if (choice === CHOOSE) return;
    told.value = taken ? taken(chooser.options.values.indexOf(choice) - 1) : choice;
    told.callback?.(told.value);
  };
  const options = { values: [CHOOSE], serialize: false, advanced: told.options.advanced };
  const chooser = node.addWidget("combo", `choose ${label}`, CHOOSE, choose, options);
  chooser.serialize = false;
  // Behind what is stored, before what is only shown.
  node.widgets.splice(node.widgets.indexOf(chooser), 1);
  const shown = node.widgets.findIndex((widget) => widget.serialize === false);
  node.widgets.splice(shown < 0 ? node.widgets.length : shown, 0, chooser);
  hideAdvanced(node);
  return node.widgets.find((widget) => widget.name === chooser.name);
}

// The first jobs of a dataset are of each class in turn, unless a plan or a job says which there are.
function turnsOf(node) {
  const plain = valueOf(node, "layout") === "auto" && !["plan", "job"].some((name) => valueOf(node, name) || isLinked(node, name));
  return plain && !isLinked(node, "dataset") ? ["turns", valueOf(node, "dataset")] : null;
}

// Where the classes come from: what is connected as classifier, else as job.
function classesFor(node) {
  const origin = (name) => node.getInputNode(node.findInputSlot(name));
  const classifier = origin("classifier") ?? origin("judge");
  if (classifier?.comfyClass === "HiGFA_LoadMiniature") return ["miniature", ""];
  if (classifier?.comfyClass === "HiGFA_LoadClassifier") return ["classifier", valueOf(classifier, "classifier_name")];
  if (classifier?.comfyClass === "HiGFA_TrainClassifier") return ["dataset", valueOf(classifier, "dataset")];
  return null;
}

// Later, when links and values are in their places.
function refreshChoices() {
  const nodes = allNodes();
  setTimeout(() => nodes.forEach((node) => node.refreshChoices?.()), 100);
}

// --- The review of datasets: a page of its own in a frame, so that its keys are not those of the canvas.

const REVIEW = "/higfa/review/";
const BUTTON = "padding: 6px 10px; border: 1px solid #4447; border-radius: 6px; background: #8882; color: inherit; ";

const reviewOf = (name) => `${api.apiURL(REVIEW)}?dataset=${encodeURIComponent(name)}`;

function openReview(name) {
  const frame = element("iframe", { src: reviewOf(name), title: "HiGFA review", style: "flex: 1; border: 0" });
  const close = element("button", { style: `${BUTTON} cursor: pointer`, "data-testid": "higfa-close" }, "Close");
  const bar = element("div", { style: "display: flex; justify-content: space-between; padding: 4px 10px" });
  const alone = element("a", { href: reviewOf(name), target: "_blank", style: "color: #9cf; align-self: center" });
  alone.append("Open in a tab of its own");
  bar.append(alone, close);
  const style = "position: fixed; inset: 0; z-index: 9999; display: flex; flex-direction: column; background: #171718; color: #ddd";
  const box = element("div", { style, "data-testid": "higfa-review" }, bar, frame);
  close.onclick = () => box.remove();
  frame.onload = () => {
    const { contentWindow: inner, contentDocument: page } = frame;
    inner.addEventListener("keydown", ({ key }) => key === "Escape" && !page.querySelector("dialog[open]") && box.remove());
    inner.focus();
  };
  document.body.append(box);
}

async function listDatasets(place) {
  const answer = await api.fetchApi(`${REVIEW}datasets`);
  const { datasets = [], error } = await answer.json();
  const none = "No dataset yet. Export Dataset makes one in ComfyUI's output folder when a workflow runs.";
  const about = datasets.length ? "Look through a dataset: other rules, and verdicts by hand." : none;
  const buttons = datasets.map((name) => {
    const style = `${BUTTON} cursor: pointer; text-align: left; overflow-wrap: anywhere`;
    const button = element("button", { style, "data-testid": "higfa-dataset" }, name);
    button.onclick = () => openReview(name);
    return button;
  });
  const style = "display: flex; flex-direction: column; gap: 6px; padding: 12px";
  const title = element("div", { style: "font-weight: 600; font-size: 15px" }, "HiGFA datasets");
  place.replaceChildren(element("div", { style }, title, element("div", {}, error ?? about), ...buttons));
}

const REVIEW_TAB = { id: "higfa-review", icon: "pi pi-images", title: "Datasets", tooltip: "Review datasets (HiGFA)" };

// --- A run that fails or is cancelled does not use up its index: the next one takes it again.

async function giveBackIndex({ detail }) {
  const graph = await queuedGraph(detail.prompt_id);
  for (const [path, { class_type, inputs }] of Object.entries(graph)) {
    const widgets = (class_type === "HiGFA_DatasetJob" && nodeAt(path)?.widgets) || [];
    const index = widgets.find((widget) => widget.name === "index");
    if (index?.value === inputs.index + 1) index.value = inputs.index;
  }
}

// The history has a run shortly after the page is told that it failed.
async function queuedGraph(id) {
  for (let tries = 0; tries < 20; tries++) {
    const answer = await api.fetchApi(`/history/${id}`);
    const known = answer.ok && (await answer.json())[id];
    if (known) return known.prompt[2];
    await new Promise((done) => setTimeout(done, 250));
  }
  return {};
}

// The page's own message of a failed or refused run hides the reason behind a button.
function sayWhy(id, reason) {
  const node = nodeAt(String(id));
  if (!node || !isOurs(node)) return;
  app.extensionManager.toast.add({ severity: "error", life: 30_000, summary: node.title, detail: reason });
}

const sayFailed = ({ detail }) => sayWhy(detail.node_id, detail.exception_message.trim());

function sayRefused(answer) {
  for (const [id, { errors }] of Object.entries(answer?.node_errors ?? {})) {
    // One error comes once for each output that hangs on the node.
    for (const reason of new Set(errors.map(({ details }) => details.replace(/^\w+ - /, "")))) sayWhy(id, reason);
  }
}

// The page has no event for a prompt that the server refuses, in part or whole.
const queuePrompt = api.queuePrompt;
api.queuePrompt = async function (...prompt) {
  try {
    const answer = await queuePrompt.apply(this, prompt);
    sayRefused(answer);
    return answer;
  } catch (error) {
    sayRefused(error.response);
    throw error;
  }
};

api.addEventListener("execution_error", sayFailed);
api.addEventListener("execution_error", giveBackIndex);
api.addEventListener("execution_interrupted", giveBackIndex);

function after(owner, method, action) {
  const before = owner[method];
  owner[method] = function () {
    const result = before?.apply(this, arguments);
    action.apply(this, arguments);
    return result;
  };
}

// The help panel is narrow, and would cut off paths and code.
const WRAP = ".node-help-content { overflow-wrap: anywhere } .node-help-content pre { white-space: pre-wrap }";

app.registerExtension({
  name: "HiGFA",
  setup() {
    document.head.append(element("style", {}, WRAP));
    app.extensionManager.registerSidebarTab({ ...REVIEW_TAB, type: "custom", render: listDatasets });
  },
  nodeCreated(node) {
    if (!isOurs(node)) return;
    addChoosers(node);
    after(node, "onConnectionsChange", refreshChoices);
    after(node, "onConnectionsChange", () => followLinks(node));
    hideAdvanced(node);
    if (GUIDED.includes(node.comfyClass)) addChart(node);
    if (node.comfyClass in TELLING) addText(node);
    node.setSize([node.size[0], node.computeSize()[1]]);
    refreshChoices();
  },
  loadedGraphNode(node) {
    if (!isOurs(node)) return;
    hideAdvanced(node);
    followLinks(node);
    setTimeout(() => restore(node), 200);
    refreshChoices();
  },
  refreshComboInNodes: refreshChoices,
  onNodeOutputsUpdated: restoreAll,
});
