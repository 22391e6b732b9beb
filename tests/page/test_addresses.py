"""Templates by their address and by their card, and the one that opens as an app."""

import os

import pytest

from higfa_core.plans.templates import TITLES
from run import PACK

from .conftest import NEWER, View, new_page, template

LOADED = "title => app.graph._nodes.length && document.title.includes(title)"
CARD = '[data-testid="template-workflow-{}"]'


@pytest.fixture
def own(browser, server, view):
    """A page of its own, for a visit by an address."""
    page = new_page(browser, server, os.environ["HIGFA_FRONT_END"] if view.front_end == NEWER else None)
    yield View(page, server, view.front_end, view.renderer)
    page.close()


def test_a_short_address_opens_a_template_as_an_app(own):
    own.page.goto(f"{own.server.url}/?template=miniature_app&source={PACK}")
    form = own.page.get_by_test_id("linear-widgets")
    form.wait_for()
    asked = [widget for _, widget in template("miniature_app")["extra"]["linearData"]["inputs"]]
    labels = form.get_by_test_id("builder-widget-label")
    own.until("count => document.querySelectorAll('[data-testid=builder-widget-label]').length === count", len(asked))
    assert [label.strip() for label in labels.all_inner_texts()] == asked
    own.page.get_by_test_id("linear-run-button").get_by_role("button").last.click()
    image = own.page.locator('img[src*="/view?"]').first
    image.wait_for(timeout=180_000)
    own.shot("app")


def test_cards_have_titles_and_pictures(own):
    own.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    own.page.get_by_test_id("template-workflows-content").wait_for()
    own.page.get_by_text(PACK, exact=True).first.click()
    for title in TITLES.values():
        card = own.page.locator(CARD.format(title))
        card.wait_for()
        assert title in card.inner_text()
        own.until("card => [...card.querySelectorAll('img')].some(image => image.naturalWidth)", card.element_handle())
    own.shot("cards")
