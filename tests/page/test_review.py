"""The review of datasets in ComfyUI's page: by hand, by rules, back, and the export that follows."""

import pytest

from higfa_core.exports.collection import read_collection

from ..review.making import CLASSES, accepted, make_dataset
from .conftest import VIEWS

SCORES = [
    {"confidence": 1 - number / 20, "rank": 1, "margin": 0.1, "phash": f"{number // 4:x}"} for number in range(16)
]
TAB = "app.extensionManager.sidebarTab.toggleSidebarTab('higfa-review')"
RELOAD = """keep => {
    const inner = document.querySelector('[data-testid=higfa-review] iframe').contentWindow;
    if (!keep) inner.sessionStorage.clear();
    inner.old = true;
    inner.location.reload();
}"""
RELOADED = """() => {
    const { contentWindow: inner, contentDocument: page } = document.querySelector('[data-testid=higfa-review] iframe');
    return !inner.old && page.querySelector('[data-testid=card]') && !page.getElementById('undo').disabled;
}"""
SLIDE = """(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input')); }"""


@pytest.fixture
def folder(view):
    """A dataset for this view alone, because a test changes it."""
    place = view.server.base / "output" / f"review_{VIEWS.index((view.front_end, view.renderer))}"
    if not place.exists():
        make_dataset(place, SCORES)
    return place


@pytest.fixture
def frame(view, folder):
    """The review of that dataset, opened from the sidebar."""
    view.page.evaluate(TAB)
    view.page.get_by_test_id("higfa-dataset").get_by_text(folder.name, exact=True).click()
    frame = view.page.frame_locator("[data-testid=higfa-review] iframe")
    frame.get_by_test_id("card").first.wait_for()
    yield frame
    view.page.get_by_test_id("higfa-close").click()
    view.page.evaluate(TAB)


def exported(folder):
    return [item.row["seed"] for item in read_collection([folder]).items]


def until(view, condition, seconds=15):
    for _ in range(int(seconds * 10)):
        if condition():
            return
        view.page.wait_for_timeout(100)
    view.shot("review-stuck")
    raise AssertionError("it did not come about in time")


def nothing_left(view, frame):
    """Nothing to undo: the tab remembers what is left, also for the next test."""
    until(view, lambda: frame.locator("#undo:disabled").count() == 1)


def test_images_are_rejected_and_taken_back_and_the_export_follows(view, folder, frame):
    everything = exported(folder)
    assert everything == list(range(len(SCORES)))
    view.page.keyboard.press("r")  # the first of the first class
    until(view, lambda: exported(folder) == everything[1:])
    view.page.keyboard.press("ArrowRight")
    view.page.keyboard.press("r")
    until(view, lambda: len(exported(folder)) == len(everything) - 2)
    until(view, lambda: frame.locator(".card.rejected").count() == 2)
    assert frame.locator(".card.rejected").first.inner_text().count("rejected by hand, 20") == 1
    view.shot("review")
    view.page.keyboard.press("z")
    view.page.keyboard.press("z")
    until(view, lambda: exported(folder) == everything)
    nothing_left(view, frame)


def test_sliders_show_at_once_what_goes_and_apply_and_undo(view, folder, frame):
    before = accepted(folder)
    slider = frame.locator("[data-rule=min_confidence]")
    slider.evaluate(SLIDE, 0.6)
    good = [number for number in before if SCORES[number]["confidence"] >= 0.6]
    frame.locator("#counts").get_by_text("would change").wait_for()
    until(view, lambda: f"{len(good)}stay" in frame.locator("#counts").inner_text().replace("\n", "").replace(" ", ""))
    until(view, lambda: frame.locator(".card.moves").count() == len(before) - len(good))
    assert accepted(folder) == before
    view.shot("review-rules")
    frame.locator("#apply").click()
    until(view, lambda: accepted(folder) == good)
    frame.locator("#undo").click()
    until(view, lambda: accepted(folder) == before)
    nothing_left(view, frame)


@pytest.mark.parametrize("keep", [True, False], ids=["same-tab", "other-browser"])
def test_a_verdict_is_undone_after_a_reload(view, folder, frame, keep):
    before = accepted(folder)
    view.page.keyboard.press("r")
    until(view, lambda: accepted(folder) == before[1:])
    frame.locator("#undo:enabled").wait_for()
    view.page.evaluate(RELOAD, keep)
    view.until(RELOADED, seconds=20)
    frame.locator("#undo").click()
    until(view, lambda: accepted(folder) == before)
    nothing_left(view, frame)


def test_rules_are_undone_after_a_reload(view, folder, frame):
    before = accepted(folder)
    frame.locator("[data-rule=min_confidence]").evaluate(SLIDE, 0.6)
    frame.locator("#apply").click()
    frame.locator("#message").get_by_text("Undo takes it back").wait_for()
    assert accepted(folder) != before
    view.page.evaluate(RELOAD, True)
    view.until(RELOADED, seconds=20)
    frame.locator("#undo").click()
    until(view, lambda: accepted(folder) == before)


def test_near_duplicates_stand_side_by_side(view, folder, frame):
    frame.locator("[data-rule=max_duplicate_bits]").evaluate(SLIDE, 0)
    frame.locator("[data-view=twins]").click()
    frame.locator(".twin").first.wait_for()
    view.shot("review-twins")
    assert frame.locator(".card").count() == frame.locator(".twin").count() > 0


def test_names_are_text(view, frame):
    assert CLASSES[1] in frame.locator("#classes").inner_text()
    assert frame.locator("img[src=x]").count() == 0 and not view.page.evaluate("window.hurt")
    view.page.keyboard.press("Enter")
    frame.locator("#large[open]").wait_for()
    view.shot("review-large")
    view.page.keyboard.press("Enter")


def test_nothing_is_asked_of_another_host(view, frame):
    asked = []
    view.page.on("request", lambda request: asked.append(request.url))
    view.page.evaluate(RELOAD, True)
    view.until(RELOADED.replace(" && !page.getElementById('undo').disabled", ""), seconds=20)
    view.page.keyboard.press("Enter")
    frame.locator("#large[open]").wait_for()
    assert asked and all(url.startswith(view.server.url) for url in asked)
    view.page.keyboard.press("Enter")
