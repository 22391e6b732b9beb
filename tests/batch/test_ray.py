"""The Ray engine, on a Ray of this machine whose two GPUs exist on paper only."""

import json
import os
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from higfa_core.batch.client import Client, PromptRejected, ServerError
from higfa_core.batch.options import Options
from higfa_core.batch.ray_engine import ray_clients
from higfa_core.batch.runner import Run
from higfa_core.batch.states import States
from higfa_core.commands import run as run_cli

from .conftest import manifest_rows

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
QUICK = Options(poll=0.01, patience=20, give_up=30)
MAIN = """\
import argparse, sys, time
sys.path += [{root!r}, {tests!r}]
import fake_comfy

parser = argparse.ArgumentParser()
for name in ("--port", "--temp-directory", "--database-url"):
    parser.add_argument(name, required=True)
parser.add_argument("--disable-auto-launch", action="store_true")
port = int(parser.parse_args().port)
server = fake_comfy._Server
fake_comfy._Server = lambda address, handler: server((address[0], port), handler)
fake_comfy.FakeComfy("output", seconds=0.02)
print("To see the GUI go to the browser")
time.sleep(1e9)
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    before = set(psutil.Process().children(recursive=True))  # servers of other tests
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Whether Ray ends what an actor started depends on its version: here it does not.
    os.environ["RAY_process_group_cleanup_enabled"] = os.environ["RAY_kill_child_processes_on_worker_exit"] = "0"
    ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    children = [child for child in psutil.Process().children(recursive=True) if child not in before]
    ray.shutdown()
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.fixture
def comfyui(tmp_path):
    """A folder that has a main.py as ComfyUI has one."""
    here = Path(__file__).parent
    (tmp_path / "ComfyUI").mkdir()
    (tmp_path / "ComfyUI" / "main.py").write_text(MAIN.format(root=str(here.parents[1]), tests=str(here)))
    return tmp_path / "ComfyUI"


def run(folder, clients, watch=lambda run: None):
    with closing(States(folder)) as states:
        found = Run(states, clients, QUICK)
        found.go(watch, every=0.01)
        return states.counts()


def in_actor(client, question):
    return ray.get(client.actor.__ray_call__.remote(question))


def patiently(client, seconds=20):
    """Ask until the server answers; returns what was said before that."""
    words, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            client.system_stats()
            return words
        except ServerError as error:
            words.append(str(error))
            time.sleep(0.05)
    raise AssertionError(words[-1])


def is_gone(pid, seconds=5):
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_the_manifest_is_that_of_a_run_without_ray(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "calm", 3)
    run(tmp_path / "calm", [Client(make_server(seconds=0).url)])
    make_plan(tmp_path / "planes", 3)
    servers = [make_server(seconds=0.01), make_server(seconds=0.01)]
    named = [part for server in servers for part in ("--server", server.url)]
    assert run_cli.main([str(tmp_path / "planes"), "--engine", "ray", "--poll", "0.01", *named]) == 0
    rows, lines = manifest_rows(tmp_path / "planes")
    assert lines == len(rows) == 60 and rows == manifest_rows(tmp_path / "calm")[0]
    assert all(len(server.posted) > 10 for server in servers) and sum(len(server.posted) for server in servers) == 60


def test_headers_go_with_the_requests_of_the_actors(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", {"x": 2})
    server = make_server()
    with ray_clients(None, [server.url], None, headers={"X-Token": "tok secret"}) as clients:
        assert run(tmp_path / "planes", clients)["done"] == 2
    assert len(server.headers) > 3
    for headers in server.headers:
        headers = {name.lower(): value for name, value in headers.items()}
        assert headers["x-token"] == "tok secret" and headers["user-agent"].startswith("HiGFA/")


def test_an_actor_killed_in_mid_run_loses_nothing(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", 3)
    servers = [make_server(seconds=0.02), make_server(seconds=0.02)]
    notes, kills = set(), []

    def watch(found):
        notes.update(worker.health.note for worker in found.workers)
        if len(kills) < 2 and len(servers[len(kills)].posted) > 5 + 10 * len(kills):
            ray.kill(clients[len(kills)].actor, no_restart=False)
            kills.append(len(servers[0].posted) + len(servers[1].posted))

    with ray_clients(None, [server.url for server in servers], None, timeout=5) as clients:
        assert [client.url for client in clients] == [server.url for server in servers]
        assert not any(in_actor(client, lambda actor: "higfa_core" in sys.modules) for client in clients)
        assert run(tmp_path / "planes", clients, watch)["done"] == 60
        clients[0].system_stats()  # it is back
    assert manifest_rows(tmp_path / "planes")[1] == 60 == sum(len(server.posted) for server in servers)
    assert len(kills) == 2 and any("actor" in note for note in notes)


def test_a_comfyui_on_each_gpu_dies_with_its_actor_and_is_started_again(tmp_path, make_plan, comfyui):
    make_plan(tmp_path / "planes", 4)
    with ray_clients(None, [], str(comfyui), timeout=5) as clients:
        node = ray.util.get_node_ip_address()
        assert {client.url for client in clients} == {f"ray://{node}:0", f"ray://{node}:1"}
        first, second = clients
        assert any("is ComfyUI running there?" in words for words in patiently(first))
        patiently(second)
        pid = in_actor(first, lambda actor: actor.process.pid)
        assert in_actor(first, lambda actor: os.environ["CUDA_VISIBLE_DEVICES"]) == first.url[-1]
        ray.kill(first.actor, no_restart=False)
        assert is_gone(pid)
        patiently(first)
        pids = [in_actor(client, lambda actor: actor.process.pid) for client in clients]
        assert pid not in pids
        psutil.Process(pids[1]).kill()
        assert any("ended with status -9: To see the GUI" in words for words in patiently(second))
        assert in_actor(second, lambda actor: actor.process.pid) not in pids
        strikes = [lambda: ray.kill(first.actor, no_restart=False)]
        strikes += [lambda: psutil.Process(in_actor(second, lambda actor: actor.process.pid)).kill()]

        def watch(found):
            if strikes and sum(worker.done for worker in found.workers) > 30 / len(strikes):
                strikes.pop()()

        assert run(tmp_path / "planes", clients, watch)["done"] == 80 and not strikes
        pids = [in_actor(client, lambda actor: actor.process.pid) for client in clients]
    assert all(map(is_gone, pids))
    rows, lines = manifest_rows(tmp_path / "planes")
    assert lines == len(rows) == 80


@pytest.fixture
def refusing_server():
    """Refuses every prompt, as ComfyUI does when a node is not installed."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            errors = {"7": {"class_type": "KSampler", "errors": [{"message": "no", "details": "seed"}]}}
            data = json.dumps({"error": {"message": "invalid"}, "node_errors": errors}).encode()
            self.send_response(400)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_refused_prompt_and_a_silent_server_are_told_apart(refusing_server):
    with ray_clients(None, [refusing_server, "http://127.0.0.1:9"], None, timeout=5) as (refusing, silent):
        with pytest.raises(PromptRejected, match=r"node 7 \(KSampler\): no \(seed\)") as refusal:
            refusing.submit({})
        assert refusal.value.node_errors["7"]["class_type"] == "KSampler"
        with pytest.raises(ServerError, match="answered 501"):
            refusing.system_stats()
        with pytest.raises(ServerError, match="No answer from http://127.0.0.1:9/prompt"):
            silent.submit({})
        ray.kill(silent.actor)  # which takes its time
        for _ in range(100):
            with pytest.raises(ServerError) as dead:
                silent.submit({})
            if "its actor does not answer" in str(dead.value):
                return
            time.sleep(0.1)
        raise dead.value


def test_an_actor_that_hangs_is_a_silent_server(make_server):
    with ray_clients(None, [make_server().url], None, timeout=0.5) as (client,):
        client.actor.__ray_call__.remote(lambda actor: time.sleep(3))
        with pytest.raises(ServerError, match="timed out"):
            client.system_stats()


@pytest.mark.parametrize(
    ("servers", "comfyui", "words"),
    [
        ([], None, "--server URL, or --comfyui"),
        (["here:8188"], None, "http://"),
        ([], "nowhere", "No main.py in /.*nowhere"),
    ],
)
def test_wrong_use_is_refused(servers, comfyui, words):
    with pytest.raises(ValueError, match=words), ray_clients(None, servers, comfyui):
        pass


def test_gpus_that_are_not_there_or_not_free(monkeypatch, comfyui, capsys):
    other = ray.remote(num_cpus=0, num_gpus=1)(Options)
    holds = [other.remote()]
    ray.get(holds[0].__ray_ready__.remote())
    with ray_clients(None, [], str(comfyui), placing_seconds=5.0) as clients:
        assert len(clients) == 1 and "1 of 2 actors found no free GPU" in capsys.readouterr().err
    holds.append(other.remote())
    ray.get(holds[1].__ray_ready__.remote())
    with pytest.raises(ValueError, match="is free"), ray_clients(None, [], str(comfyui), placing_seconds=0.2):
        pass
    for actor in holds:
        ray.kill(actor)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ValueError, match="no GPU"), ray_clients(None, [], str(comfyui)):
        pass


def test_options_of_the_command(tmp_path, make_plan, monkeypatch, capsys):
    make_plan(tmp_path / "planes", 1)
    assert run_cli.main([str(tmp_path / "planes"), "--comfyui", "there"]) == 1
    assert "--engine ray" in capsys.readouterr().err
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **options: (_ for _ in ()).throw(ConnectionError("refused")))
    assert run_cli.main([str(tmp_path / "planes"), "--engine", "ray", "--ray-address", "10.0.0.9:6379"]) == 1
    assert "Ray cluster at 10.0.0.9:6379 (refused). Check that it runs" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run_cli.main([str(tmp_path / "planes"), "--engine", "ray", "--server", "http://127.0.0.1:9"]) == 1
    assert "pip install higfa[ray]" in capsys.readouterr().err
