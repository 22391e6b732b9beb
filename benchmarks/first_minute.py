"""The first minute of a newcomer: `run.py serve`, the page that it names, and one press of Run, in a real browser.

    python run.py exec -- python benchmarks/first_minute.py --rounds 3 --screenshot first.png

Seconds since `serve` was typed, in an installation that is set up; a browser is already open, as most people's is. Each
round restarts the server, with an empty browser profile and the next bird. Needs Chromium on PATH.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import run  # noqa: E402

TIMEOUT = 120  # seconds for each thing that is waited for
READABLE = """() => {
    const { graph, canvas } = window.app ?? {};
    const nodes2 = [...document.querySelectorAll('[data-testid="node-title"]')];
    const size = nodes2.length ? parseFloat(getComputedStyle(nodes2[0]).fontSize) : window.LiteGraph?.NODE_TEXT_SIZE;
    return graph?._nodes?.some(node => node.type === 'HiGFA_KSampler') && canvas.ds.scale * size >= 8
        && !(canvas.low_quality && !nodes2.length);
}"""
# What the server tells the page, with the time on the page's clock.
LISTEN = """async () => {
    const { api } = await import('/scripts/api.js');
    window.seen = {};
    const note = (name) => { window.seen[name] ??= Date.now() / 1000; };
    const picture = app.graph._nodes.find(node => node.title === 'Result');
    api.addEventListener('b_preview', () => note('preview'));
    api.addEventListener('higfa.guidance', ({ detail }) =>
        note(detail.state.text.startsWith('step') ? 'chart' : 'sentence'));
    api.addEventListener('executed', ({ detail }) => String(detail.node) === String(picture.id) && note('picture'));
}"""
DONE = "() => ['preview', 'chart', 'sentence', 'picture'].every(name => window.seen[name])"
DRAWN = """() => app.graph._nodes.find(node => node.title === 'Result').imgs?.[0]?.complete
    || document.querySelector('img[src*="/view"], img[src*="api/view"]')?.complete"""
MOMENTS = {
    "ready": "the address is printed",
    "readable": "the template stands in the page, its titles at least 8 pixels high",
    "chart": "the chart of the guidance moves",
    "preview": "the first preview of the image",
    "sentence": "the sentence under the sampler",
    "picture": "the result is told to the page",
    "drawn": "and is seen",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nodes2", action="store_true", help="in Nodes 2.0 instead of the classic canvas")
    parser.add_argument("--screenshot", type=Path, help="of the last round, as PNG")
    args = parser.parse_args()
    browser_path = next(filter(None, map(shutil.which, run.BROWSERS)), None)
    if browser_path is None:
        sys.exit("No Chromium on PATH. Install it, for instance: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for number in range(args.rounds):
            found.append(first_minute(browser, number, args.nodes2, args.screenshot))
        browser.close()
    print("| seconds since `serve` | median | least | most |\n|---|---|---|---|")
    for name, text in MOMENTS.items():
        times = [one[name] for one in found]
        print(f"| {text} | {statistics.median(times):.1f} | {min(times):.1f} | {max(times):.1f} |")


def first_minute(browser, number: int, nodes2: bool, screenshot: Path | None) -> dict[str, float]:
    """Seconds at which each of `MOMENTS` came."""
    port = run.free_port()
    began = time.time()
    command = [sys.executable, str(ROOT / "run.py"), "serve", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        address = printed_address(process)
        times = {"ready": time.time() - began}
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(1000 * TIMEOUT)
        page.goto(address)
        page.wait_for_function(READABLE)
        times["readable"] = time.time() - began
        page.evaluate("nodes2 => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', nodes2)", nodes2)
        page.evaluate(LISTEN)
        page.evaluate(
            """index => { app.graph._nodes.find(node => node.type === 'HiGFA_DatasetJob').widgets
            .find(widget => widget.name === 'index').value = index; }""",
            number,
        )
        page.get_by_test_id("queue-button").first.click()
        page.wait_for_function(DONE)
        page.wait_for_function(DRAWN)
        times["drawn"] = time.time() - began
        if screenshot:
            page.wait_for_timeout(500)
            page.screenshot(path=screenshot)
        seen = page.evaluate("window.seen")
        page.close()
        return times | {name: at - began for name, at in seen.items()}
    finally:
        process.terminate()
        process.wait(30)


def printed_address(process: subprocess.Popen) -> str:
    """What `serve` says to open."""
    for line in process.stdout:
        if found := re.search(r"open (http\S+)", line):
            return found[1]
    sys.exit(f"`serve` ended with exit status {process.wait()} and named no address.")


if __name__ == "__main__":
    main()
