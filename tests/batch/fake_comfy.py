"""A ComfyUI server that misbehaves on purpose. It writes images with the real store, as Export Dataset does."""

import hashlib
import io
import itertools
import json
import re
import threading
import time
import urllib.parse
import uuid
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
from PIL import Image

from higfa_core.files.paths import folder_name
from higfa_core.files.records import Row
from higfa_core.plans.plan import jobs_from_json
from higfa_core.plans.uploads import UPLOADS
from higfa_core.plans.workflow import EXPORT, JOB, digest, find_node, image_key
from higfa_core.store.manifest import Manifest

ROW_FIELDS = tuple(field.name for field in msgspec.structs.fields(Row) if field.required)
FAULTS = ("die before", "die after", "drop", "no history", "empty", "twice", "error")


def draw(*values):
    """A number in 0..1 that depends on nothing but the values."""
    return int(hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8], 16) / 2**32


def tiny_png(key):
    """An 8x8 PNG that depends on nothing but the key, and on all of it."""
    buffer = io.BytesIO()
    Image.frombytes("RGB", (8, 8), hashlib.shake_256(key.encode()).digest(192)).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()


def jobs_of(graph, uploads=None):
    """The jobs of a prompt; their classes may be among the files that were uploaded."""
    text = graph[find_node(graph, JOB)]["inputs"]["job"]
    return jobs_from_json(text, lambda name: json.loads(uploads[name.removeprefix(f"{UPLOADS}/")]))


def image_row(graph, accepted=lambda key: True, index=0, batch=1, job=None):
    """The manifest row and the content that an image of the graph's (first) job has, whoever makes it."""
    job = job or jobs_of(graph)[0]
    key = image_key(job.key, digest(graph, find_node(graph, EXPORT)))
    good = accepted(key)
    row = dict.fromkeys(ROW_FIELDS) | {"key": key, "index": index, "batch": batch, "class_name": job.class_name}
    row |= {"file": f"{'train' if good else 'rejected'}/{folder_name(job.class_name)}/{key[:16]}-{index}.png"}
    row |= {"label": job.label, "accepted": good, "reason": "", "prompt": job.prompt, "source": job.source}
    row |= {"scores": {"confidence": draw(key), "phash": key[:16]}, "seed": job.seed, "mask": None, "box": None}
    row |= {"width": 8, "height": 8, "plan_index": job.index, "created": str(time.time())}
    return row, tiny_png(key + "'" * index)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Silent: a client that hangs up on a bad answer is meant to, and its message would count as ours."""


class FakeComfy:
    """`faults`: what may go wrong, at the first `times` attempts of a job, with probability `share`.

    `answer_as`: an entry of `misbehaviour.ANSWERS` that answers the requests of `methods`, until it is taken away;
    `twist`: an entry of `misbehaviour.ROWS`, what the manifest says of each image; `content`: of every file but the
    manifest. A prompt with the fault "hangs" writes `before` of its `batch` images and runs on until it is
    interrupted, or for ever if the server is `unresponsive`. So many of its answers to a new prompt as
    `lost_answers` says get lost.
    """

    def __init__(
        self, output, seconds=0.005, faults=(), share=0.2, times=1, accepted=lambda key: True, seed=0, batch=1
    ):
        self.output, self.seconds, self.accepted = Path(output), seconds, accepted
        self.faults, self.share, self.times, self.seed = faults, share, times, seed
        self.lock = threading.RLock()
        self.pending, self.running, self.history = [], None, {}
        self.tried, self.seen_faults, self.posted, self.deepest = {}, set(), [], 0
        self.uploads, self.silent_until, self.always, self.scores = {}, 0.0, None, {}
        self.batch, self.hung, self.unresponsive, self.before = batch, False, False, 0
        self.interrupted, self.looks, self.lost_answers = [], 0, 0
        self.prompts = []  # jobs of each prompt that ended
        self.answer_as, self.methods, self.twist, self.content, self.headers = None, ("GET", "POST"), None, None, []
        self.instance, self.stopped = uuid.uuid4().hex, False
        self.httpd = _Server(("127.0.0.1", 0), _handler(self))
        self.httpd.daemon_threads = True
        self.httpd.fake = self
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        for target in (lambda: self.httpd.serve_forever(0.01), self._work):
            threading.Thread(target=target, daemon=True).start()

    def close(self):
        self.stopped = True
        self.httpd.shutdown()
        self.httpd.server_close()

    def die(self, silence=0.15):
        """As a crash and a restart: queue and history are gone, a new instance answers after a while."""
        with self.lock:
            self.pending, self.running, self.history, self.hung = [], None, {}, False
            self.instance, self.silent_until = uuid.uuid4().hex, time.monotonic() + silence

    def _work(self):
        while not self.stopped:
            with self.lock:
                instance = self.instance
                if not self.hung:
                    self.running = self.pending.pop(0) if self.pending else None
                item = None if self.hung else self.running
            if item is None:
                time.sleep(0.001)
                continue
            time.sleep(self.seconds)
            with self.lock:
                if self.instance != instance or self.running is None:
                    continue
                self._end(*item)
                self.running = self.running if self.hung else None

    def hang(self, prompt_id="a stranger's", graph=None):
        """Have a prompt run for ever."""
        with self.lock:
            self.running, self.hung = (prompt_id, graph), True

    def interrupt(self, prompt_id):
        """What is sent to a prompt that does not hang comes too late."""
        self.interrupted.append(prompt_id)
        if self.hung and not self.unresponsive and self.running[0] == prompt_id:
            messages = [["execution_interrupted", {"node_id": "3", "node_type": "KSampler"}]]
            self.history[prompt_id] = {"outputs": {}, "status": {"status_str": "error", "messages": messages}}
            self.running, self.hung = None, False

    def come_round(self):
        """What hangs ends well after all, or is not ours."""
        with self.lock:
            prompt_id, graph = self.running
            if graph:
                self._write(graph, self.batch)
                self.history[prompt_id] = {"outputs": {}, "status": {"status_str": "success"}}
            self.running, self.hung = None, False

    def _fault(self, key):
        self.tried[key] = self.tried.get(key, 0) + 1
        if self.always:
            return self.always
        if self.tried[key] <= self.times and draw(self.seed, key, self.tried[key]) < self.share:
            return self.faults[int(draw("which", self.seed, key) * len(self.faults))] if self.faults else None
        return None

    def _end(self, prompt_id, graph):
        keys = [image_row(graph, job=job)[0]["key"] for job in jobs_of(graph, self.uploads)]
        self.prompts.append(len(keys))
        fault = next(filter(None, [self._fault(key) for key in keys]), None)  # one fails, all do
        self.seen_faults.add(fault)
        if fault == "hangs":
            self._write(graph, self.before)
            return self.hang(prompt_id, graph)
        if fault == "die before":
            return self.die()
        if fault == "die between":
            self._write(graph, self.batch, jobs_of(graph, self.uploads)[: len(keys) // 2])
            return self.die()
        if fault == "drop":
            return None
        if fault not in ("empty", "error"):
            self._write(graph, self.batch)
            if fault == "twice":
                self._write(graph, self.batch)
        if fault == "die after":
            return self.die()
        status = {"status_str": "error", "messages": [["execution_error", {"node_id": "3", "node_type": "KSampler",
                  "exception_type": "OutOfMemoryError", "exception_message": "no memory"}]]}  # fmt: skip
        if fault != "no history":
            self.history[prompt_id] = {
                "outputs": {},
                "status": status if fault == "error" else {"status_str": "success"},
            }
        return None

    def _write(self, graph, count, jobs=None):
        manifest = Manifest(self.output / graph[find_node(graph, EXPORT)]["inputs"]["dataset_name"])
        for job, index in itertools.product(jobs_of(graph, self.uploads) if jobs is None else jobs, range(count)):
            row, data = image_row(graph, self.accepted, index, self.batch, job)
            if self.twist is None:
                manifest.write(row | {"scores": row["scores"] | self.scores}, data)
                continue
            data = self.content or data
            row |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            manifest.folder.mkdir(parents=True, exist_ok=True)
            with open(manifest.path, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(self.twist(row)) + "\n")


def _handler(fake):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.silent() or self.misbehaves():
                return
            where = urllib.parse.urlsplit(self.path)
            query = {k: v[0] for k, v in urllib.parse.parse_qs(where.query).items()}
            with fake.lock:
                if where.path == "/queue":
                    fake.looks += 1
                    running = [fake.running] if fake.running else []
                    self.answer({"queue_running": [[0, *item] for item in running],
                                 "queue_pending": [[0, *item] for item in fake.pending]})  # fmt: skip
                elif where.path.startswith("/history/"):
                    prompt_id = where.path.rpartition("/")[2]
                    self.answer({prompt_id: fake.history[prompt_id]} if prompt_id in fake.history else {})
                elif where.path == "/system_stats":
                    self.answer({"system": {}})
                elif where.path == "/view":
                    self.view(fake.output / query["subfolder"] / query["filename"])

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.silent() or self.misbehaves():
                return
            with fake.lock:
                if self.path == "/upload/image":
                    self.answer(self.upload(body))
                    return
                values = json.loads(body)
                if self.path == "/prompt":
                    fake.pending.append((values["prompt_id"], values["prompt"]))
                    fake.posted.append(values["prompt_id"])
                    fake.deepest = max(fake.deepest, len(fake.pending) + (fake.running is not None))
                    if fake.lost_answers:
                        fake.lost_answers -= 1
                        self.close_connection = True
                        return
                    self.answer({"prompt_id": values["prompt_id"]})
                elif self.path == "/queue":
                    fake.pending = [item for item in fake.pending if item[0] not in values["delete"]]
                    self.answer({})
                elif self.path == "/interrupt":
                    fake.interrupt(values["prompt_id"])
                    self.answer({})
                elif self.path == "/free":
                    self.answer({})

        def silent(self):
            if time.monotonic() < fake.silent_until:
                self.close_connection = True
                return True
            return False

        def misbehaves(self):
            fake.headers.append(dict(self.headers))
            if fake.answer_as is None or self.command not in fake.methods:
                return False
            return fake.answer_as(self) is not False  # it may leave some requests to us

        def answer(self, values, code=200, data=None):
            data = json.dumps(values).encode() if data is None else data
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def view(self, path):
            if fake.twist and path.name != "manifest.jsonl" and path.suffix != ".part":
                return self.answer(None, 200, fake.content or tiny_png(path.name))
            if not path.is_file():
                return self.answer({}, 404)
            data = path.read_bytes()
            if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(found[1]), int(found[2] or len(data)) + 1
                return self.answer(None, 416 if start >= len(data) else 206, data[start:end])
            return self.answer(None, 200, data)

        def upload(self, body):
            message = message_from_bytes(b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + body)
            parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
            name = parts["image"].get_filename()
            fake.uploads[name] = parts["image"].get_payload(decode=True)
            return {"name": name, "subfolder": parts["subfolder"].get_payload().strip(), "type": "input"}

        def log_message(self, *_):
            pass

    return Handler
