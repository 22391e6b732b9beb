"""The JavaScript as it stands: small, and without anything that reaches outside or makes HTML of data."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"
SMALL = 24_000  # bytes


REVIEW = ROOT / "higfa_core" / "review" / "page"


def test_the_review_needs_nothing_from_outside_and_makes_no_html_of_data():
    text = "".join(file.read_text("utf-8") for file in REVIEW.iterdir())
    assert not re.search(r"https?://", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function| on\w+=", text)
    assert "import " not in (REVIEW / "review.js").read_text("utf-8")


def test_the_page_needs_nothing_from_outside_and_makes_no_html_of_data():
    text = "".join(script.read_text("utf-8") for script in WEB.rglob("*.js"))
    assert 0 < len(text) <= SMALL
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert all(place.startswith("../../scripts/") for place in re.findall(r'from "([^"]+)"', text))
