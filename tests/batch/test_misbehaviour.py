"""Servers that answer anything but what ComfyUI answers: beside a good one, and alone."""

import os
import shutil
import ssl
import subprocess
import time
from contextlib import closing

import pytest

from higfa_core.batch.client import Client
from higfa_core.batch.options import Options
from higfa_core.batch.runner import Run
from higfa_core.batch.states import States
from higfa_core.commands import run as run_cli
from higfa_core.commands.shell import Speech

from .conftest import manifest_rows
from .misbehaviour import ANSWERS, BODIES, LATE, ROWS

pytestmark = pytest.mark.slow

# A server that is slow because this machine is busy must not be given up: then nobody may take what the other refuses.
QUICK = Options(poll=0.002, patience=0.5, give_up=20.0, rest=0.2, wait=10.0)
PROGRAM = b"print('not a picture')"


def drive(folder, clients, options=QUICK):
    """Run the plan in `folder`, for a minute at most; returns the run with its `counts` and `failures`."""
    end = time.monotonic() + 60
    with closing(States(folder)) as states:
        run = Run(states, clients, options)
        run.go(lambda run: run.stopping.set() if time.monotonic() > end else None, every=0.01)
        run.counts, run.failures = states.counts(), states.failures()
    return run


def client(server, name="", scheme="http"):
    """A client that gives large files, of which there are none, no extra time."""
    return Client(server.url.replace("http", scheme), timeout=0.3 if name in LATE else 5.0, longest_extra=0.0)


def check_all_made(folder, run, count=8):
    rows, lines = manifest_rows(folder)
    assert run.counts["done"] == count == len(rows) == lines, (run.counts, run.failures, run.problem)
    assert not run.failures and not run.problem


@pytest.mark.parametrize("methods", [("GET", "POST"), ("POST",)], ids=["always", "to POST"])
@pytest.mark.parametrize("name", ANSWERS)
def test_beside_a_good_server_all_jobs_are_made(tmp_path, make_plan, make_server, name, methods):
    make_plan(tmp_path / "planes", {"x": 8})
    bad, good = make_server(), make_server(seconds=0.03)
    bad.answer_as, bad.methods = ANSWERS[name], methods
    run = drive(tmp_path / "planes", [client(bad, name), client(good)])
    check_all_made(tmp_path / "planes", run)
    assert run.workers[0].done == 0 and len(good.posted) == 8


# How each of them ends alone, in one line; after `give_up` or sooner.
WORDS = {
    **dict.fromkeys(BODIES, "did not answer as ComfyUI does"),
    **dict.fromkeys(("401", "403"), "--header NAME=VALUE"),
    "404": "is this the address of ComfyUI itself",
    "413": "is this the address of ComfyUI itself|0.png has 0.0 MB",
    **dict.fromkeys(("429", "500", "502", "503", "504"), "it is busy or being restarted"),
    "308": "leads to 'https://elsewhere.example/comfy': give the address that it leads to",
    "redirect to file": "leads to 'file:///etc/passwd'",
    **dict.fromkeys(("half body", "half header", "endless headers"), "is ComfyUI running there?|answered nothing"),
    **dict.fromkeys(LATE, "no whole answer within 0.3 s"),
    "endless body": "an answer of more than|sends its manifest too slowly|no usable answer yet",
    "wrong node set": "Node 'Export Dataset' not found|is this the address",
}


@pytest.mark.parametrize("methods", [("GET", "POST"), ("POST",)], ids=["always", "to POST"])
@pytest.mark.parametrize("name", ANSWERS)
def test_alone_it_ends_in_one_clear_line(tmp_path, make_plan, make_server, capsys, name, methods):
    make_plan(tmp_path / "planes", {"x": 3})
    bad = make_server()
    bad.answer_as, bad.methods = ANSWERS[name], methods
    too_large = name == "413" and methods == ("POST",)  # ends by itself, once each job was refused
    seconds = 30.0 if too_large else 1.0
    options = Options(poll=0.01, give_up=seconds, wait=seconds, patience=0.5)
    with closing(States(tmp_path / "planes")) as states:
        assert run_cli.run_plan(states, [client(bad, name)], options, Speech())[0] == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error and "secret" not in error
    lines = [line for line in error.splitlines() if "stopped, no usable server" in line or " failed: " in line]
    assert any(any(words in line for words in WORDS[name].split("|")) for line in lines), error
    assert max(map(len, lines)) < 700
    with closing(States(tmp_path / "planes")) as states:
        assert states.counts()["failed"] == (3 if too_large else 0)


@pytest.mark.parametrize("name", ROWS)
def test_hostile_rows_write_nothing_and_stop_nobody(tmp_path, make_plan, make_server, name):
    folder = tmp_path / "deep" / "below" / "planes"
    make_plan(folder, {"x": 8})
    (tmp_path / "deep" / "watch").mkdir(exist_ok=True)
    bad, good = make_server(tmp_path / "bad"), make_server(tmp_path / "good", seconds=0.03)
    bad.twist, bad.content = ROWS[name], PROGRAM if name == "not a picture" else None
    plan = (folder / "plan.json").read_bytes()
    run = drive(folder, [client(bad), client(good)])
    check_all_made(folder, run)
    assert "cannot be trusted" in run.workers[0].health.unusable
    assert (folder / "plan.json").read_bytes() == plan and not os.path.exists("/tmp/higfa-was-here.png")
    kept = {"manifest.jsonl", "plan.json", "plan.jsonl", "jobs.sqlite", "lock.sqlite"}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == kept | {row["file"] for row in manifest_rows(folder)[0]}
    assert not [path for path in tmp_path.rglob("higfa-was-here*")]


@pytest.mark.parametrize("name", ROWS)
def test_alone_a_server_with_hostile_rows_ends_the_run(tmp_path, make_plan, make_server, capsys, name):
    make_plan(tmp_path / "planes", {"x": 3})
    bad = make_server()
    bad.twist, bad.content = ROWS[name], PROGRAM if name == "not a picture" else None
    assert run_cli.main([str(tmp_path / "planes"), "--server", bad.url, "--poll", "0.01"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped, no usable server")]
    assert "its manifest cannot be trusted (" in line and "Restore it, or leave this server out" in line
    assert "mask '../../higfa-was-here.png'" in line or name != "mask above"


def test_tls_where_there_is_none(tmp_path, make_plan, make_server, capsys):
    make_plan(tmp_path / "planes", {"x": 3})
    bad, good = make_server(), make_server()
    url = bad.url.replace("http", "https")
    assert run_cli.main([str(tmp_path / "planes"), "--server", url, "--poll", "0.01"]) == 1
    assert "give http:// if it has no TLS" in capsys.readouterr().err
    check_all_made(tmp_path / "planes", drive(tmp_path / "planes", [client(bad, scheme="https"), client(good)]), 3)


@pytest.fixture
def certified(make_server, tmp_path):
    """A good server behind TLS, with a certificate that nobody vouches for; its URL and that certificate."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    server = make_server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.httpd.socket = context.wrap_socket(server.httpd.socket, server_side=True)
    return server.url.replace("http", "https"), certificate


def test_a_certificate_that_nobody_vouches_for(tmp_path, make_plan, make_server, certified, capsys, monkeypatch):
    make_plan(tmp_path / "planes", {"x": 3})
    url, certificate = certified
    assert run_cli.main([str(tmp_path / "planes"), "--server", url, "--poll", "0.01"]) == 1
    error = capsys.readouterr().err
    assert "certificate verify failed" in error and "set SSL_CERT_FILE to the certificate it uses" in error
    good = make_server()
    check_all_made(tmp_path / "planes", drive(tmp_path / "planes", [Client(url), client(good)]), 3)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    make_plan(tmp_path / "again", {"x": 2})
    check_all_made(tmp_path / "again", drive(tmp_path / "again", [Client(url)]), 2)


def test_nobody_listens(tmp_path, make_plan, capsys):
    make_plan(tmp_path / "planes", {"x": 3})
    start = time.monotonic()
    url = "http://127.0.0.1:9"
    assert run_cli.main([str(tmp_path / "planes"), "--server", url, "--poll", "0.01", "--wait", "0.5"]) == 1
    error = capsys.readouterr().err
    assert "127.0.0.1:9" in error and "is ComfyUI running there?" in error and "an hour" not in error
    assert time.monotonic() - start < 60  # not the ten minutes of --give-up


@pytest.mark.parametrize("name", ["429", "500", "503", "404", "login page"])
def test_an_outage_of_a_server_that_works_costs_no_job(tmp_path, make_plan, make_server, name):
    make_plan(tmp_path / "planes", {"x": 12})
    server = make_server(seconds=0.01)
    server.methods = ("POST",)
    outage = []

    def watch(run):
        if len(server.history) >= 3 and not outage:
            outage.append(time.monotonic() + 0.4)
            server.answer_as = ANSWERS[name]
        if outage and time.monotonic() > outage[0]:
            server.answer_as = None

    with closing(States(tmp_path / "planes")) as states:
        run = Run(states, [client(server)], QUICK)
        run.go(watch, every=0.01)
        ((attempts, losses),) = states._all("SELECT SUM(attempts), SUM(losses) FROM jobs")
        assert states.counts()["done"] == 12 and (attempts, losses) == (0, 0), (run.problem, states.failures())


def test_a_server_that_asks_to_be_left_alone_is(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", {"x": 3})
    server = make_server()
    server.answer_as, server.methods = ANSWERS["429"], ("GET", "POST")
    with closing(States(tmp_path / "planes")) as states:
        run = Run(states, [client(server)], QUICK)
        start = time.monotonic()
        run.go(lambda run: run.stopping.set() if time.monotonic() > start + 0.8 else None, every=0.01)
    assert len(server.headers) == 1  # Retry-After: 1


def test_one_upload_that_is_too_large_fails_its_jobs_only(tmp_path, make_plan, make_server, sources):
    (sources / "x" / "0.png").write_bytes((sources / "x" / "0.png").read_bytes() + b"\0" * 50_000)
    make_plan(tmp_path / "planes", {"x": 10})
    server = make_server()
    too_large, server.methods = ANSWERS["413"], ("POST",)
    server.answer_as = lambda handler: too_large(handler) if int(handler.headers["Content-Length"]) > 50_000 else False
    run = drive(tmp_path / "planes", [client(server)])
    assert run.counts["done"] == 8 and run.counts["failed"] == 2
    for _, reason in run.failures:
        assert str(sources / "x" / "0.png") in reason and "0.1 MB" in reason and "--max-upload-size" in reason


def test_headers_and_login_are_sent_and_never_shown(tmp_path, make_plan, make_server, capsys, monkeypatch):
    make_plan(tmp_path / "planes", {"x": 2})
    server = make_server()
    monkeypatch.setenv("HIGFA_HEADERS", "X-Token=tok secret\n\nX-Both=from environment\n")
    url = server.url.replace("http://", "http://me:pass%20secret@")
    command = [str(tmp_path / "planes"), "--server", url, "--poll", "0.01", "--header", "X-Both=secret=1"]
    assert run_cli.main(command) == 0
    for headers in server.headers:
        headers = {name.lower(): value for name, value in headers.items()}
        assert headers["x-token"] == "tok secret" and headers["x-both"] == "secret=1"
        assert headers["authorization"] == "Basic bWU6cGFzcyBzZWNyZXQ=" and headers["user-agent"].startswith("HiGFA/")
    shown = capsys.readouterr()
    assert "secret" not in shown.out + shown.err
    written = [path for path in (tmp_path / "planes").rglob("*") if path.is_file()]
    assert written and not any(b"secret" in path.read_bytes() for path in written)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--header", "secret"], "--header must be NAME=VALUE"),
        (["--header", "A b=secret"], "--header must be NAME=VALUE"),
        (["--header", "A=secret\r\nB: c"], "the value of A must be printable ASCII"),
        (["--header", "Host=secret"], "Host is set by each request itself"),
        (["--server", "ftp://me:secret@here"], "got 'ftp://here'"),
        (["--server", "http://me:secret@here/?token=secret"], "without ? and #"),
        (["--server", "http://me:secret@here:99999"], "A server must be http://HOST:PORT"),
    ],
)
def test_wrong_headers_and_addresses_are_refused_without_showing_secrets(tmp_path, make_plan, capsys, options, words):
    make_plan(tmp_path / "planes", {"x": 2})
    assert run_cli.main([str(tmp_path / "planes"), *options]) == 1
    error = capsys.readouterr().err
    assert words in error and "secret" not in error
