"""Why images were rejected, in a few words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping


def reasons(rejected: Mapping[str, int]) -> Counter:
    """Reasons without the numbers and names of single images, so that similar ones are counted together."""
    found = Counter()
    for reason, count in rejected.items():
        reason = re.sub(r" -?[\d.e+-]+ is below", " is below", reason)
        reason = re.sub(r" sees (['\"]).*\1$", " sees another class", reason)
        found[re.sub(r"^near-duplicate:.*", "near-duplicate of an earlier image", reason)] += count
    return found
