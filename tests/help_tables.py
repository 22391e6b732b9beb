"""Write the settings tables of web/docs/*.md: `python run.py exec -- python -m tests.help_tables`.

A page names the dataclass in the line before its table: <!-- settings: higfa_core.plans.rules Rules -->; names after
that choose some of its settings. The line <!-- end of settings --> ends the table.
"""

import importlib
import re
from pathlib import Path

from higfa_core.settings import ADVANCED, HIDDEN, Setting, in_words, settings_of

PAGES = sorted((Path(__file__).resolve().parent.parent / "web" / "docs").glob("*.md"))
TABLE = re.compile(r"(<!-- settings: (\S+) (\w+)((?: \w+)*) -->\n).*?(<!-- end of settings -->)", re.DOTALL)


def updated(page: str) -> str:
    """The text of a help page with its tables as the settings are declared."""
    return TABLE.sub(_table, page)


def _table(match: re.Match) -> str:
    begin, module, name, chosen, end = match.groups()
    items = settings_of(getattr(importlib.import_module(module), name), *chosen.split())
    items = [item for item in items if item.tier != HIDDEN]
    head = ["setting", "meaning", "default", "values"]
    rows = [head, ["---"] * len(head), *map(_row, items)]
    lines = ["| " + " | ".join(row) + " |\n" for row in rows]
    return "\n".join([begin, "".join(lines), end])


def _row(item: Setting) -> list[str]:
    advanced = " (advanced)" if item.tier == ADVANCED else ""
    usual = f"; usually {item.usual}" if item.usual else ""
    cells = item.text, in_words(item.default), item.values + usual
    return [f"**{item.name}**{advanced}", *(cell.replace("<", r"\<").replace("|", r"\|") for cell in cells)]


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(updated(page.read_text("utf-8")), "utf-8", newline="\n")
