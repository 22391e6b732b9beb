import json
import re
import threading
import uuid
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from higfa_core.batch import collector
from higfa_core.batch.client import Client, PromptFailed, PromptRejected, ServerError
from higfa_core.batch.collector import Collector
from higfa_core.batch.options import Options
from higfa_core.batch.runner import Run
from higfa_core.batch.states import States

from .conftest import manifest_rows

ERROR = {
    "status_str": "error",
    "messages": [
        ["execution_start", {}],
        [
            "execution_error",
            {
                "node_id": "5",
                "node_type": "KSampler",
                "exception_type": "ValueError",
                "exception_message": "bad sigma\n",
            },
        ],
    ],
}


class FakeComfy:
    """As much of ComfyUI's server as the client uses. A prompt says by its "fate" how it ends."""

    def __init__(self):
        self.queue, self.results = [], {}
        self.cancelled, self.interrupted = [], []
        self.lock = threading.Lock()

    def post_prompt(self, body):
        prompt, prompt_id = body["prompt"], body["prompt_id"]
        assert str(uuid.UUID(prompt_id)) == prompt_id and body["client_id"]
        if prompt.get("fate") == "rejected":
            error = {"message": "Value not in list", "details": "sampler_name: 'eulr'"}
            nodes = {"3": {"class_type": "KSampler", "errors": [error]}}
            return 400, {"error": {"message": "Prompt outputs failed validation"}, "node_errors": nodes}
        self.queue.append((prompt_id, prompt))
        return 200, {"prompt_id": prompt_id, "number": 1, "node_errors": {}}

    def step(self):
        """Finish the oldest prompt."""
        prompt_id, prompt = self.queue.pop(0)
        fate = prompt.get("fate", "ok")
        status = {"status_str": "success", "messages": []} if fate == "ok" else ERROR
        self.results[prompt_id] = {"status": status, "outputs": {"9": {"images": [{"filename": fate}]}}}

    def part(self, data, ranges):
        if not ranges or not self.knows_ranges:
            return 200, data
        start, end = re.fullmatch(r"bytes=(\d+)-(\d*)", ranges).groups()
        return (206, data[int(start) : int(end) + 1 if end else None]) if int(start) < len(data) else (416, b"")

    def get(self, path, ranges):
        if path.startswith("/history/"):
            prompt_id = path.rpartition("/")[2]
            return 200, {prompt_id: self.results[prompt_id]} if prompt_id in self.results else {}
        if path == "/queue":
            items = [[0, prompt_id, {}, {}, []] for prompt_id, _ in self.queue]
            answer = 200, {"queue_running": items[:1], "queue_pending": items[1:]}
            if self.queue and self.autorun:
                self.step()
            return answer
        if path == "/system_stats":
            return 200, {"system": {"comfyui_version": "0.30.0"}}
        if path == "/view?filename=a+b.png&subfolder=x&type=output":
            return self.part(b"bytes", ranges)
        return 404, {}

    autorun = knows_ranges = True


@pytest.fixture
def comfy():
    fake = FakeComfy()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, code, body):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            with fake.lock:
                self.answer(*fake.get(self.path, self.headers["Range"]))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                if self.path == "/prompt":
                    self.answer(*fake.post_prompt(body))
                elif self.path == "/queue":
                    fake.cancelled += body["delete"]
                    self.answer(200, b"")
                elif self.path == "/interrupt":
                    fake.interrupted.append(body.get("prompt_id"))
                    self.answer(200, b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    yield fake
    server.shutdown()
    server.server_close()


def test_status_of_a_prompt_through_its_life(comfy):
    comfy.autorun = False
    client = Client(comfy.url + "/")
    first, second = client.submit({"n": 1}), client.submit({"n": 2, "fate": "error"})
    assert (client.status(first), client.status(second)) == ("running", "waiting")
    comfy.step()
    assert (client.status(first), client.status(second)) == ("done", "running")
    comfy.step()
    assert (client.status(second), client.status(str(uuid.uuid4()))) == ("failed", "lost")
    assert client.error(first) is None
    assert client.error(second) == "Node 5 (KSampler): ValueError: bad sigma"
    assert client.wait(first)["outputs"]["9"]["images"] == [{"filename": "ok"}]
    with pytest.raises(PromptFailed, match="bad sigma"):
        client.wait(second)
    with pytest.raises(PromptFailed, match="does not know"):
        client.wait(str(uuid.uuid4()))


def test_a_prompt_that_ends_between_the_two_questions_is_not_lost(comfy):
    comfy.autorun = False
    client = Client(comfy.url)
    prompt_id = client.submit({})
    history, asked = client.history, []

    def slow_history(wanted):
        answer = history(wanted)
        if not asked:
            comfy.step()
        asked.append(wanted)
        return answer

    client.history = slow_history
    assert client.status(prompt_id) == "done" and len(asked) == 2


def test_wait_times_out(comfy):
    comfy.autorun = False
    client = Client(comfy.url)
    prompt_id = client.submit({})
    with pytest.raises(TimeoutError, match="still running after 0.01 s"):
        client.wait(prompt_id, timeout=0.01, poll=0.005)


def test_a_rejected_prompt_is_explained(comfy):
    with pytest.raises(PromptRejected) as caught:
        Client(comfy.url).submit({"fate": "rejected"})
    assert "node 3 (KSampler): Value not in list (sampler_name: 'eulr')" in str(caught.value)
    assert caught.value.node_errors["3"]["class_type"] == "KSampler"


def test_other_requests(comfy):
    client = Client(comfy.url)
    assert client.system_stats()["system"]["comfyui_version"] == "0.30.0"
    assert client.view("a b.png", "x") == b"bytes"
    client.interrupt()
    client.interrupt("id")
    assert comfy.interrupted == [None, "id"]
    with pytest.raises(ServerError, match="object_info/X answered 404"):
        client.object_info("X")


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_parts_of_a_file(comfy, knows_ranges):
    comfy.knows_ranges, client = knows_ranges, Client(comfy.url)
    parts = [client.read_output("a b.png", "x", *part) for part in ((), (2,), (0, 3), (1, 2), (3, 9), (5, 4))]
    assert parts == [b"bytes", b"tes", b"byt", b"yt", b"es", b""]
    assert client.read_output("absent.png", "x") is None


class Served:
    """A server's manifest, in `folder` if that is given; `starts`: where it was read from."""

    def __init__(self, data, folder=None):
        self.data, self.folder, self.starts = data, folder, []

    def read_output(self, name, subfolder, start=0, most=None):
        if name != "manifest.jsonl":
            return (self.folder / name).read_bytes() if self.folder else None
        self.starts.append(start)
        return self.data[start : start + most]


@pytest.mark.parametrize("block", [collector.BLOCK, 5000])
def test_of_a_servers_manifest_only_the_rows_of_unfinished_jobs_are_kept(tmp_path, make_plan, make_server, block):
    folder = tmp_path / "planes"
    make_plan(folder, 5)
    with closing(States(folder)) as states:
        Run(states, [Client(make_server(seconds=0).url)], Options(limit=90, poll=0.001)).go(every=0.01)
        own = (folder / "manifest.jsonl").read_bytes()
        first, second, third, *_, last = (
            key for (key,) in states._all("SELECT key FROM jobs WHERE state = 'planned' ORDER BY idx")
        )
        row = json.loads(own.splitlines()[0])
        wanted = [(first, 0), (first, 1), (second, 0), (third, 0)]
        *new, late = (json.dumps(row | {"key": key, "index": i, "batch": 2}).encode() for key, i in wanted)
        near = Collector(served := Served(own, folder), states, block=block)
        assert not near.collect(last) and served.starts == [len(own)]  # none of it is read, it is the folder's own
        served.data += b"\n".join([*new, b"{"])
        assert not near.collect(last) and near._lines == {first: new[:2], second: new[2:]}
        far = Collector(served := Served(own + b"\n".join([*new, b""])), states, block=block)
        assert not far.collect(last) and far._lines == near._lines
        states._all("UPDATE jobs SET state = 'done' WHERE key = ?", (first,))
        served.data += late + b"\n"
        assert not far.collect(last) and far._lines == {second: new[2:], third: [late]}
    assert not list(folder.glob(".probe*"))


@pytest.mark.parametrize("shared", [True, False])
def test_deleted_images_come_back_from_a_server_that_has_them(tmp_path, make_plan, make_server, shared):
    folder = tmp_path / "out" / "planes"
    make_plan(folder, 1)
    server = make_server(tmp_path / "out" if shared else None, seconds=0)
    for _ in range(2):
        with closing(States(folder)) as states:
            Run(states, [Client(server.url)], Options(poll=0.001)).go(every=0.01)
            assert states.counts()["done"] == 20
        rows, _ = manifest_rows(folder)
        for row in rows[:3]:
            (folder / row["file"]).unlink()
        States(folder).close()  # a run that is killed at once
    assert len(server.posted) == (23 if shared else 20)


def test_no_server_and_bad_url():
    with pytest.raises(ServerError, match="is ComfyUI running there"):
        Client("http://127.0.0.1:9", timeout=2).system_stats()
    with pytest.raises(ValueError, match="http://"):
        Client("file:///etc/passwd")


def test_a_proxy_is_not_asked_for_this_machine(comfy, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Client(comfy.url).system_stats()


def test_nothing_that_comfyui_loads_imports_the_client():
    from pathlib import Path

    root = Path(__file__).parents[2]
    core = [path for path in root.glob("higfa_core/**/*.py") if path.parent.name not in ("batch", "commands")]
    loaded = [*root.glob("nodes/*.py"), *core]
    guilty = [path for path in loaded if "batch" in _imports(path)]
    assert loaded and guilty == []


def _imports(path):
    import ast

    tree = ast.walk(ast.parse(path.read_text("utf-8")))
    names = [node.module or "" for node in tree if isinstance(node, ast.ImportFrom)]
    return {part for name in names for part in name.split(".")}
