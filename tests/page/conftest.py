"""A real browser on a real server: one of each for all tests of the page, in two front ends and two renderers.

Each front end is seen in one renderer, and each renderer in one front end, but for what takes long (`first_view`);
HIGFA_PAGE=all tries all four with everything.

HIGFA_FRONT_END names the folder of a second, newer front end (`python run.py test` fetches one); its files then take
the place of those that ComfyUI serves, as its option --front-end-root does. Screenshots go to .higfa/screenshots.
"""

import json
import os
import shutil
import urllib.request
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

import run
from higfa_core.classifier import FineGrainedClassifier
from higfa_core.miniature import birds
from higfa_core.plans.templates import TITLES

from ..conftest import ROOT

# A page whose files do not come from its server may else not talk to a server on this machine.
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks"]
SCREENSHOTS = ROOT / ".higfa" / "screenshots"
WORKFLOWS = ROOT / "workflows"
GUIDE = ROOT / "higfa_core" / "miniature" / "weights" / "guide.safetensors"
MINE = [f"Bird <b>{number}</b>" for number in range(len(birds.CLASS_NAMES))]
SHIPPED, NEWER = "shipped", "newer"
CLASSIC, NODES_2 = "classic", "nodes2"
ALL = os.environ.get("HIGFA_PAGE") == "all"
VIEWS = list(product((SHIPPED, NEWER), (CLASSIC, NODES_2))) if ALL else [(SHIPPED, CLASSIC), (NEWER, NODES_2)]
OPEN = """async ([name, workflow]) => {
    await app.loadGraphData(workflow, true, true, name, {openSource: 'template'});
    await new Promise(done => setTimeout(done, 300));
}"""
LISTEN = """async () => {
    const { api } = await import('/scripts/api.js');
    window.ended = null;
    for (const name of ['execution_success', 'execution_error', 'execution_interrupted'])
        api.addEventListener(name, () => { window.ended = name; }, { once: true });
}"""
RENDER = "nodes2 => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', nodes2)"


@pytest.fixture(scope="package")
def browser():
    found = next(filter(None, map(shutil.which, run.BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium on PATH: to test the page, install it (for instance: apt-get install chromium)")
    api = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: run `python run.py test`, which installs it"
    )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


def template(name: str) -> dict:
    """A template by its short name, as a graph: not as the app that it may open as."""
    workflow = json.loads((WORKFLOWS / f"{TITLES[name]}.json").read_text("utf-8"))
    workflow["extra"].pop("linearMode", None)
    return workflow


@dataclass
class View:
    """A page that shows ComfyUI: `front_end` is shipped or newer, `renderer` classic or nodes2."""

    page: object
    server: object
    front_end: str
    renderer: str

    def open(self, name: str, workflow: dict | None = None) -> None:
        """Open a template as the template browser does."""
        workflow = workflow or template(name)
        self.page.evaluate(OPEN, [name, workflow])

    def shot(self, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}-{self.front_end}-{self.renderer}.png")

    def run(self) -> None:
        self.page.mouse.move(640, 790)  # away from what shows a hint over the button
        try:
            self.page.get_by_test_id("queue-button").first.click(timeout=40_000)
        except Exception:
            self.shot("blocked")
            raise

    def complete(self, seconds: float = 90) -> None:
        """Press Run, and wait until it has succeeded."""
        self.page.evaluate(LISTEN)
        self.run()
        self.until("() => window.ended", seconds=seconds)
        wrong = "app.lastExecutionError?.exception_message"
        assert self.page.evaluate("window.ended") == "execution_success", self.page.evaluate(wrong)
        self.page.wait_for_timeout(1500)  # for pictures to be loaded and drawn

    def until(self, condition: str, argument=None, seconds: float = 90) -> None:
        """Wait until a JavaScript expression is true."""
        self.page.wait_for_function(condition, arg=argument, timeout=1000 * seconds)


@pytest.fixture
def my_classifier(server) -> str:
    file = server.base / "models" / "higfa_classifiers" / "mine.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        classifier = FineGrainedClassifier.load(GUIDE)
        classifier.class_names = tuple(MINE)
        classifier.save(file)
    return file.name


@pytest.fixture(scope="package")
def pages(browser, server):
    """Front end -> a page that shows it, opened when first asked for and kept."""
    opened = {}
    set_up(server, {"Comfy.TutorialCompleted": True})

    def page_of(front_end: str, folder: str | None):
        if front_end not in opened:
            opened[front_end] = new_page(browser, server, folder)
        return opened[front_end]

    return page_of


@pytest.fixture(scope="package", params=VIEWS, ids="-".join)
def view(request, pages, server):
    return view_of(request.param, pages, server)


@pytest.fixture(scope="package", params=VIEWS if ALL else VIEWS[:1], ids="-".join)
def first_view(request, pages, server):
    """For what takes long and hardly differs between front ends."""
    return view_of(request.param, pages, server)


def view_of(wanted, pages, server):
    front_end, renderer = wanted
    folder = os.environ.get("HIGFA_FRONT_END") if front_end == NEWER else None
    if front_end == NEWER and not folder:
        pytest.skip("HIGFA_FRONT_END names no second front end: `python run.py test` fetches one")
    page = pages(front_end, folder)
    page.evaluate(RENDER, renderer == NODES_2)
    return View(page, server, front_end, renderer)


def new_page(browser, server, folder: str | None):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    if folder:
        serve_from(page, Path(folder), server.url)
    page.goto(server.url)
    page.get_by_test_id("queue-button").first.wait_for()
    page.wait_for_function("app.canvas?.graph && app.extensions.some(extension => extension.name === 'HiGFA')")
    return page


def set_up(server, settings: dict) -> None:
    for name, value in settings.items():
        request = urllib.request.Request(f"{server.url}/settings/{name}", json.dumps(value).encode(), method="POST")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()


def serve_from(page, folder: Path, url: str) -> None:
    """Answer what the browser asks for from a folder where there is such a file, else from the server."""

    def answer(route, request):
        path = request.url.removeprefix(url).split("?")[0].lstrip("/") or "index.html"
        file = folder / path
        if file.is_file():
            route.fulfill(path=file)
        else:
            route.fallback()

    page.route(f"{url}/**", answer)
