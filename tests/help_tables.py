"""Write the lists of settings in web/docs/*.md: `python run.py exec -- python -m tests.help_tables`.

A page names the dataclass in the line before its list: <!-- settings: higfa_core.plans.rules Rules -->; names after
that choose some of its settings. The line <!-- end of settings --> ends it.
"""

import importlib
import re
from pathlib import Path

from higfa_core.settings import ADVANCED, HIDDEN, Setting, in_words, settings_of

PAGES = sorted((Path(__file__).resolve().parent.parent / "web" / "docs").glob("*.md"))
LIST = re.compile(r"(<!-- settings: (\S+) (\w+)((?: \w+)*) -->\n).*?(<!-- end of settings -->)", re.DOTALL)


def updated(page: str) -> str:
    """The text of a help page with its lists as the settings are declared."""
    return LIST.sub(_list, page)


def _list(match: re.Match) -> str:
    begin, module, name, chosen, end = match.groups()
    items = settings_of(getattr(importlib.import_module(module), name), *chosen.split())
    items = [item for item in items if item.tier != HIDDEN]
    return "\n".join([begin, *map(_line, items), "", end])


def _line(item: Setting) -> str:
    """Not a table: the panel of a node is 220 pixels wide."""
    default = in_words(item.default)
    usual = f"usually {item.usual}" if item.usual else ""
    values = item.values.replace(f"{2**64 - 1:,}", "2^64 - 1")
    facts = [f"default {default}" if default else "", values, usual, "advanced" if item.tier == ADVANCED else ""]
    about = "; ".join(filter(None, facts))
    meaning = f"{item.text} *({about})*" if about else item.text
    return f"- **{item.name}**: {meaning}".replace("<", r"\<")


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(updated(page.read_text("utf-8")), "utf-8", newline="\n")
