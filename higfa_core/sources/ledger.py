"""What was left out of a dataset: one line per reason, with the number of files and an example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..files.names import printable


@dataclass(frozen=True)
class LeftOut:
    """`count` files left out for one `reason`, such as `example`; `remedy`: how to include them."""

    reason: str
    count: int
    example: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.count:,} {self.reason}{remedy}, such as {printable(self.example)}"


class Ledger:
    """Counts what is left out while a folder is read."""

    def __init__(self):
        self._counts: dict[tuple[str, str], list] = {}

    def add(self, reason: str, example: str, count: int = 1, remedy: str = "") -> None:
        """`count` more files, for this reason."""
        entry = self._counts.setdefault((reason, remedy), [0, example])
        entry[0] += count

    def add_all(self, reason: str, paths: Iterable[str], remedy: str = "") -> None:
        """All these files, for this reason."""
        for path in paths:
            self.add(reason, path, remedy=remedy)

    def entries(self) -> tuple[LeftOut, ...]:
        """The reasons, most frequent first."""
        found = [LeftOut(reason, count, example, remedy) for (reason, remedy), (count, example) in self._counts.items()]
        return tuple(sorted(found, key=lambda entry: (-entry.count, entry.reason)))


def merged(*ledgers: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """The entries of several ledgers, combined by reason."""
    ledger = Ledger()
    for entry in (entry for entries in ledgers for entry in entries):
        ledger.add(entry.reason, entry.example, entry.count, entry.remedy)
    return ledger.entries()
