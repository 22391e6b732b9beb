"""Templates by their address and by their card, and the one that opens as an app."""

import os
from pathlib import Path

import pytest

from higfa_core.plans.templates import TITLES
from run import PACK

from .conftest import NEWER, View, serve_from, template

CARD = '[data-testid="template-workflow-{}"]'
LABELS = "[data-testid=builder-widget-label]"


@pytest.fixture
def app(browser, server, view):
    """A page that an address opens as an app."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(90_000)
    if view.front_end == NEWER:
        serve_from(page, Path(os.environ["HIGFA_FRONT_END"]), server.url)
    page.goto(f"{server.url}/?template=miniature_app&source={PACK}")
    yield View(page, server, view.front_end, view.renderer)
    page.close()


def test_a_short_address_opens_a_template_as_an_app(app):
    asked = [widget for _, widget in template("miniature_app")["extra"]["linearData"]["inputs"]]
    app.until(f"count => document.querySelectorAll('{LABELS}').length === count", len(asked))
    assert [label.strip() for label in app.page.locator(LABELS).all_inner_texts()] == asked
    welcome = app.page.get_by_role("button", name="Skip")
    app.page.add_locator_handler(welcome, lambda: welcome.click())  # the newer front end's, over its first app
    app.page.get_by_test_id("linear-run-button").get_by_role("button").last.click()
    app.page.locator('img[src*="/view?"]:visible').first.wait_for()
    app.shot("app")


def test_cards_have_titles_and_pictures(view):
    view.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    view.page.get_by_test_id("template-workflows-content").wait_for()
    view.page.get_by_text("HiGFA", exact=True).last.click()  # the category, as locales/ call it
    for title in TITLES.values():
        card = view.page.locator(CARD.format(title))
        card.scroll_into_view_if_needed()
        assert title in card.inner_text()
        view.until("card => [...card.querySelectorAll('img')].some(image => image.naturalWidth)", card.element_handle())
    view.shot("cards")
    view.page.keyboard.press("Escape")
