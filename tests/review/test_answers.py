"""The answers of the review: what the page gets, and what it refuses to do."""

import io
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from PIL import Image, PngImagePlugin

from higfa_core.commands.review import serving
from higfa_core.files.atomic import alone
from higfa_core.review import datasets
from higfa_core.review.answers import Review
from higfa_core.review.filtering import refilter
from higfa_core.store.manifest import Manifest

from ..conftest import ROOT
from .making import CLASSES, accepted, make_dataset

SCORES = [{"confidence": value, "rank": 1, "margin": 0.1} for value in (0.9, 0.8, 0.3, 0.2)]
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def root(tmp_path):
    make_dataset(tmp_path / "output" / "birds", SCORES)
    Image.new("RGB", (40, 30), (200, 10, 10)).save(tmp_path / "real.png")
    return tmp_path / "output"


@pytest.fixture
def review(root):
    return Review(root, lambda name, recorded: None)


def found(answer):
    return answer.status, json.loads(answer.body)


def post(review, path, body, headers=JSON):
    return found(review.post(path, headers, json.dumps(body).encode()))


def get(review, path, **query):
    return found(review.get(path, query, {}))


def test_the_datasets_are_those_below_the_folder(review, root):
    make_dataset(root / "more" / "deeper", SCORES[:1])
    (root / "birds" / "train" / "manifest.jsonl").touch()  # a class may be called anything
    assert set(get(review, "datasets")[1]["datasets"]) == {"birds", "more/deeper"}


def test_a_dataset_has_what_the_page_shows(review):
    status, state = get(review, "dataset", name="birds")
    assert status == 200 and state["classes"] == CLASSES and state["pictures"] == ["made"]
    assert sorted(image["seed"] for image in state["images"]) == ["0", "1", "2", "3"]
    measured = {rule["name"]: rule["measured"] for rule in state["rules"]}
    assert measured["min_confidence"] and not measured["min_judge_confidence"]
    assert get(review, "dataset", name="birds", version=state["version"])[1] == {"same": True}


@pytest.mark.parametrize("rules", [{"min_confidence": 0.5}, {"min_confidence": 0.25, "require_top1": True}, {}])
def test_a_preview_is_what_the_command_then_does(review, root, rules):
    status, seen = post(review, "preview", {"dataset": "birds", "rules": rules})
    assert status == 200
    dry = refilter(root / "birds", rules, dry_run=True)
    assert seen["stay"] == dry.outcomes["accepted"] and len(seen["verdicts"]) == dry.rejected
    assert post(review, "filter", {"dataset": "birds", "rules": rules})[1]["rejected"] == dry.rejected
    assert len(accepted(root / "birds")) == seen["stay"]


def test_applied_rules_are_undone_by_those_before(review, root):
    _, first = post(review, "filter", {"dataset": "birds", "rules": {"min_confidence": 0.5}})
    assert accepted(root / "birds") == [0, 1]
    post(review, "filter", {"dataset": "birds", "rules": first["before"]})
    assert accepted(root / "birds") == [0, 1, 2, 3]


def test_a_verdict_says_what_was_before(review, root):
    image = {"key": Manifest(root / "birds").rows()[1]["key"], "index": 0}
    _, first = post(review, "verdict", {"dataset": "birds", "images": [image], "accepted": False})
    assert first["now"][0]["reason"] == "rejected by hand" and first["before"] == [{**image, "accepted": None}]
    _, second = post(review, "verdict", {"dataset": "birds", "images": [image], "accepted": None})
    assert second["before"] == [{**image, "accepted": False}] and accepted(root / "birds") == [0, 1, 2, 3]


def test_a_picture_is_made_once_small_and_without_what_its_file_says(review, root):
    row = Manifest(root / "birds").rows()[0]
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "a secret")
    Image.new("RGB", (900, 600), (7, 90, 160)).save(root / "birds" / row["file"], pnginfo=text)
    query = {"dataset": "birds", "key": row["key"], "index": "0", "kind": "made"}
    answer = review.get("picture", query, {})
    with Image.open(io.BytesIO(answer.body)) as picture:
        assert picture.size == (256, 171) and picture.format == "WEBP" and "prompt" not in picture.info
    (kept,) = (root / "birds" / ".review").rglob("*.webp")
    stamp = kept.stat().st_mtime_ns
    assert review.get("picture", query, {}).body == answer.body and kept.stat().st_mtime_ns == stamp
    Image.new("RGB", (300, 300)).save(root / "birds" / row["file"])  # made again: another picture
    assert review.get("picture", query, {}).body != answer.body


def test_real_images_are_read_where_that_is_allowed_and_nowhere_else(root, tmp_path):
    for name, source in (("in", "real.png"), ("out", "../../etc/passwd"), ("text", "notes.txt")):
        make_dataset(root / name, SCORES[:1], source=source)
    (tmp_path / "notes.txt").write_text("no picture")
    review = Review(root, lambda name, recorded: tmp_path)
    key = Manifest(root / "in").rows()[0]["key"]

    def picture(name, kind):
        query = {"dataset": name, "key": key, "index": "0", "kind": kind, "size": "large"}
        return review.get("picture", query, {})

    with Image.open(io.BytesIO(picture("in", "real").body)) as real:
        assert real.size == (40, 30)
    with Image.open(io.BytesIO(picture("in", "contour").body)) as contour:
        assert contour.size == (32, 32)
    for name in ("out", "text"):
        for kind in ("real", "contour"):
            assert picture(name, kind).status == 400
    assert get(Review(root, lambda name, recorded: None), "dataset", name="in")[1]["pictures"] == ["made"]


@pytest.mark.parametrize("name", ["..", "../output/birds", "/etc", "", "birds/train", "nothing", "birds/../birds"])
def test_a_dataset_lies_below_the_folder(review, name):
    assert get(review, "dataset", name=name)[0] == 400
    assert post(review, "preview", {"dataset": name, "rules": {}})[0] == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("verdict", {"dataset": "birds", "images": [], "accepted": True}),
        ("verdict", {"dataset": "birds", "images": [{"key": "k", "index": -1}], "accepted": True}),
        ("verdict", {"dataset": "birds", "images": [{"key": "k", "index": 0}], "accepted": "yes"}),
        ("verdict", {"dataset": "birds", "images": [{"key": "k", "index": 0}], "accepted": True, "more": 1}),
        ("preview", {"dataset": "birds", "rules": {"min_confidence": "high"}}),
        ("filter", {"dataset": "birds", "rules": {"min_confidence": 7}}),
        ("filter", {"dataset": "birds", "rules": {"no_rule": 1}}),
        ("filter", {"dataset": "birds", "rules": {"min_judge_confidence": 0.5}}),  # not measured
        ("filter", ["birds"]),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(review, root, path, body):
    before = (root / "birds" / "manifest.jsonl").read_bytes()
    status, answer = post(review, path, body)
    assert status == 400 and answer["error"] and (root / "birds" / "manifest.jsonl").read_bytes() == before


ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://evil.example", "Host": "127.0.0.1:8188"},
    {"Origin": "http://127.0.0.1:9999", "Host": "127.0.0.1:8188"},
    {"Origin": "null", "Host": "127.0.0.1:8188"},
]


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_pages_of_other_sites_are_refused(review, root, headers):
    image = {"key": Manifest(root / "birds").rows()[0]["key"], "index": 0}
    body = {"dataset": "birds", "images": [image], "accepted": False}
    assert post(review, "verdict", body, JSON | headers)[0] == 403
    assert review.get("datasets", {}, headers).status == 403
    assert accepted(root / "birds") == [0, 1, 2, 3]


def test_a_form_cannot_write(review, root):
    image = {"key": Manifest(root / "birds").rows()[0]["key"], "index": 0}
    body = {"dataset": "birds", "images": [image], "accepted": False}
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert post(review, "verdict", body, {"Content-Type": kind})[0] == 415
    assert accepted(root / "birds") == [0, 1, 2, 3]


def test_while_a_run_judges_the_page_is_told_to_wait(review, root, monkeypatch):
    monkeypatch.setattr(datasets, "WAIT", 0.05)
    with alone(root / "birds"):
        assert post(review, "filter", {"dataset": "birds", "rules": {}})[0] == 409
    assert post(review, "filter", {"dataset": "birds", "rules": {}})[0] == 200


@contextmanager
def running(root):
    server = serving(root)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def asked(url, host=None, body=None):
    headers = ({"Host": host} if host else {}) | (JSON if body else {})
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_the_command_serves_the_page_to_this_machine_only(root):
    with running(root) as url:
        status, headers, page = asked(f"{url}/?dataset=birds")
        assert status == 200 and b"review.js" in page and "default-src 'none'" in headers["Content-Security-Policy"]
        assert asked(f"{url}/review.js")[1]["Content-Type"].startswith("text/javascript")
        assert asked(f"{url}/nothing")[0] == 404 and asked(f"{url}/../../etc/passwd")[0] == 404
        assert json.loads(asked(f"{url}/datasets")[2]) == {"datasets": ["birds"]}
        body = json.dumps({"dataset": "birds", "rules": {"min_confidence": 0.5}}).encode()
        assert asked(f"{url}/preview", body=body)[0] == 200
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example"):  # a name made to point here
            assert asked(f"{url}/datasets", host)[0] == 403 and asked(f"{url}/filter", host, body)[0] == 403
        assert accepted(root / "birds") == [0, 1, 2, 3]


def test_the_command_tells_programs_its_address(root):
    words = [sys.executable, "-m", "higfa_core.commands.main", "review", root, "--json"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        found = json.loads(process.stdout.readline())
        assert json.loads(asked(f"{found['address']}datasets")[2]) == {"datasets": found["datasets"]}
        process.terminate()
        rest, messages = process.communicate(timeout=30)
    assert rest == "" and found["address"] in messages
    assert found["folder"] == str(root) and found["datasets"] == ["birds"]
