"""The help pages say what the nodes have."""

import re

import pytest

from .help_tables import PAGES, TABLE, updated


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tables_are_those_of_the_declared_settings(page):
    text = page.read_text("utf-8")
    assert updated(text) == text, "run `python run.py exec -- python -m tests.help_tables` and commit what it wrote"


def test_a_changed_table_is_seen():
    page = next(text for page in PAGES if TABLE.search(text := page.read_text("utf-8")))
    row = TABLE.search(page).group().splitlines()[4]
    assert row.startswith("| **") and updated(page.replace(row, row + "!")) == page


def test_pages_name_every_input(pack):
    for node_id, node in pack.nodes.items():
        (text,) = (page.read_text("utf-8") for page in PAGES if page.stem == node_id)
        lacking = [item.id for item in node.GET_SCHEMA().inputs if not re.search(rf"\b{item.id}\b", text)]
        assert not lacking, f"web/docs/{node_id}.md does not name {lacking}"
