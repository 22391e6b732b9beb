"""What a server may answer: to each question of the client, and as the manifest and the images of its dataset."""

import hashlib
import io
import socket
import threading

from hypothesis import strategies as st
from PIL import Image

from higfa_core.batch.answers import ServerError
from higfa_core.batch.client import Client, PromptFailed, PromptRejected
from higfa_core.batch.collector import Collector
from higfa_core.batch.headers import read_headers
from higfa_core.batch.states import States
from higfa_core.batch.transport import HEADERS, Answer, NoAnswer
from higfa_core.files.paths import folder_name
from higfa_core.plans.plan import Plan
from higfa_core.plans.plan_file import PlanFile, write_plan
from higfa_core.plans.workflow import image_key
from higfa_core.sources.layouts import read_dataset

from ..batch.fake_comfy import ROW_FIELDS
from .records import dataset
from .strategies import as_json, damaged, damaged_bytes, json_files, names, values

CLEAR = (ServerError, PromptFailed, PromptRejected)
STATUSES = (
    200,
    200,
    200,
    200,
    206,
    400,
    404,
    416,
    100,
    201,
    204,
    301,
    308,
    401,
    403,
    413,
    418,
    429,
    500,
    503,
    599,
    999,
)
GOOD = [
    {"prompt_id": "x"},
    {"error": {"type": "prompt_no_outputs", "message": "m", "details": "d"}, "node_errors": {"3": {"errors": []}}},
    {"queue_running": [[0, "x", {}, {}, []]], "queue_pending": []},
    {"x": {"status": {"status_str": "error", "messages": [["execution_error", {"node_id": "3"}]]}, "outputs": {}}},
    {"x": {"outputs": {"9": {"images": []}}, "status": {"status_str": "success", "messages": []}}},
    {"name": "a.png", "subfolder": "higfa_sources", "type": "input"},
    {"system": {"os": "posix"}, "devices": []},
]
CALLS = (
    lambda client: client.submit({}, "x"),
    lambda client: client.status("x"),
    lambda client: client.error("x"),
    lambda client: client.wait("x", 0.0, 0.0),
    lambda client: client.interrupt("x"),
    lambda client: client.cancel(["x"]),
    lambda client: client.object_info("KSampler"),
    lambda client: client.system_stats(),
    lambda client: client.view("a.png"),
    lambda client: client.read_output("manifest.jsonl", "set", 7, 100),
    lambda client: client.upload("a.png", b"x", "higfa_sources"),
    lambda client: client.free(),
)


class Wire:
    """In place of a transport: the same answers again and again."""

    def __init__(self, answers):
        self.answers, self.asked = answers, 0

    def ask(self, path, body, headers, seconds, most, cut=False):
        answer = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        if isinstance(answer, str):
            raise NoAnswer(answer, "in the fuzzer")
        return answer._replace(body=answer.body[:most])


def http(home):
    """Whole answers of any status, header and body to every question."""
    bodies = json_files(GOOD) | values.map(as_json) | st.binary(max_size=20) | st.sampled_from([b"", b"{}", b"[]"])
    headers = st.dictionaries(st.sampled_from(HEADERS), st.text(max_size=20) | names, max_size=3)
    answer = st.builds(Answer, st.sampled_from(STATUSES), headers, bodies)
    silence = st.sampled_from(["unreachable", "late", "broken", "untrusted", "endless", "starting"])
    parts = st.tuples(st.sampled_from(CALLS), st.lists(answer | silence, min_size=1, max_size=3))

    def read(part):
        call, answers = part
        client = Client("http://127.0.0.1:9")
        client._transport = Wire(answers)
        try:
            call(client)
        except TimeoutError:  # of `wait`: the prompt goes on
            pass

    return parts, read


def raw(home):
    """Any bytes on the wire, through the real transport."""
    good = [b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + b'{"prompt_id":"x"}']
    good.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    good.append(b"HTTP/1.1 308 Moved\r\nLocation: http://127.0.0.1:9/x\r\nContent-Encoding: gzip\r\n\r\n")
    listener = socket.create_server(("127.0.0.1", 0))
    answers = []

    def serve():
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(answers[-1])
                except OSError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def read(part):
        call, data = part
        answers.append(data)
        call(Client(url, timeout=2.0))
        answers.clear()

    calls = st.sampled_from([call for call in CALLS if call is not CALLS[3]])
    return st.tuples(calls, damaged_bytes(good)), read


class Server:
    """In place of a client: a server's manifest and one content for all its images."""

    url = "http://127.0.0.1:9"

    def __init__(self, manifest, image):
        self.manifest, self.image = manifest, image

    def read_output(self, filename, subfolder, start=0, most=None):
        data = self.manifest if filename == "manifest.jsonl" else self.image
        return data[start : None if most is None else start + most]


def hostile_manifest(home):
    """Rows of a server: whatever they say, only an image's own place is written."""
    dataset(home)
    about = {"workflow": {}, "workflow_digest": "", "dataset_name": "big", "options": {}}
    write_plan(home / "big", Plan(read_dataset(home / "real"), 500), **about)
    plan, states = PlanFile(home / "big"), States(home / "big")
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    content = buffer.getvalue()
    rows = [_row(plan.job(index), content) for index in range(0, 2000, 40)]
    parts = st.integers(0, len(rows) - 1).flatmap(
        lambda number: st.tuples(
            st.just(number), damaged([rows[number]]).map(as_json) | damaged_bytes([as_json(rows[number])])
        )
    )
    pictures = st.just(content) | damaged_bytes([content])

    def read(part):
        (number, line), image = part
        collector = Collector(Server(line + b"\n", image), states)
        collector._offset = 0
        if collector.collect(rows[number]["key"]):
            for path in (home / "big" / "train").rglob("*.png"):
                path.unlink()
            (home / "big" / "manifest.jsonl").write_bytes(b"")
            states.ingest()

    return st.tuples(parts, pictures), read


def _row(job, content):
    key = image_key(job.key, "")
    row = dict.fromkeys(ROW_FIELDS) | {"key": key, "index": 0, "batch": 1, "class_name": job.class_name}
    row |= {"file": f"train/{folder_name(job.class_name)}/{key[:16]}-0.png", "label": job.label, "accepted": True}
    row |= {"reason": "", "prompt": job.prompt, "source": job.source, "scores": {}, "seed": job.seed, "mask": None}
    return row | {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "created": "now"}


def typed(home):
    """Addresses and headers, as people type them."""
    parts = "http https ftp :// me:pw @ [::1] host : 8188 / ?a # %zz é 127.0.0.1 99999".split()
    address = st.lists(st.sampled_from([*parts, " "])).map("".join)
    header = st.lists(st.sampled_from(["Name", "=", " ", "\n", "value", "é", "Host", ":", "\0", "X-Token"])).map(
        "".join
    )

    def read(part):
        kind, text = part
        Client(text) if kind == "address" else read_headers([], text)

    return st.tuples(st.just("address"), address | names) | st.tuples(st.just("headers"), header | names), read


TARGETS = {
    "HTTP answers": http,
    "HTTP bytes": raw,
    "server's manifest": hostile_manifest,
    "addresses": typed,
}
