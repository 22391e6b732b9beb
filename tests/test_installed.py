"""What an installation from the registry holds: the README's commands work there, or the README says where they do."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pathspec
import pytest
from PIL import Image

from higfa_core import __version__

from .batch.fake_comfy import FakeComfy

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = re.findall(r"python run\.py (\w[^\n`#]+)", README)
HIGFA = ("-m", "higfa_core.commands.main")


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """The tree that `.comfyignore` leaves, read as the registry's command line reads it."""
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text("utf-8").splitlines())
    folder = tmp_path_factory.mktemp("custom_nodes") / "ComfyUI-HiGFA"
    for where, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in (".git", "__pycache__", ".pytest_cache", ".ruff_cache")]
        for file in (Path(where, name).relative_to(ROOT) for name in files if name != ".git"):
            if not ignored.match_file(file):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, folder / file)
    return folder


@pytest.fixture(scope="module")
def python(pack):
    """Runs Python in that tree; returns exit code, stdout and stderr."""

    def run(*words, cwd=pack):
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMFYUI_PATH")}
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    """Two classes of one image each, in ComfyUI's input folder."""
    base = tmp_path_factory.mktemp("base")
    for name, colour in (("Auk", "navy"), ("Gull", "white")):
        path = base / "input" / "higfa_demo" / "train" / name / "0.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(path)
    return base


def test_it_holds_what_comfyui_loads_and_no_more(pack):
    held = {path.name for path in pack.iterdir()}
    assert {"__init__.py", "nodes", "higfa_core", "web", "workflows", "requirements.txt", "pyproject.toml"} <= held
    assert not held & {"run.py", "tests", "benchmarks", ".higfa", ".git"}
    assert (pack / "higfa_core" / "commands" / "run.py").is_file()
    gone = {p.relative_to(ROOT).as_posix() for p in (ROOT / "higfa_core").rglob("*") if "__pycache__" not in p.parts}
    gone -= {path.relative_to(pack).as_posix() for path in pack.rglob("*")}
    assert gone == {"higfa_core/batch/ray_engine.py"}


def test_the_readmes_way_from_a_folder_to_a_dataset(python, birds):
    """Word for word but for the program, the folder, the server and the number of images."""
    section = README.partition("## From a folder to a dataset")[2].partition("\n## ")[0]
    commands = section.split("```")[1].strip().splitlines()
    server = FakeComfy(birds / "output", seconds=0)
    server.scores = {"rank": 1, "confidence": 0.99, "judge_rank": 1, "judge_confidence": 0.99}
    here = {".higfa/base": str(birds), "http://127.0.0.1:8188": server.url, "--per-class 20": "--per-class 1"}
    try:
        for command in commands:
            for shown, used in here.items():
                command = command.replace(shown, used)
            words = shlex.split(command)
            assert words[:3] == ["python", "run.py", "higfa"]
            code, out, err = python(*HIGFA, *words[3:])
            assert code == 0, f"{command}\n{out}\n{err}"
    finally:
        server.close()
    assert (birds / "output" / "birds" / "report.html").is_file()
    assert len(list((birds / "output" / "birds_imagefolder" / "train").rglob("*.png"))) == 2


@pytest.mark.parametrize("command", sorted({c.split()[1] for c in COMMANDS if re.match("higfa [a-z]", c)}))
def test_every_command_of_the_readme_knows_its_options(python, command):
    code, out, err = python(*HIGFA, command, "--help")
    assert code == 0, err
    for line in COMMANDS:
        if line.split()[:2] == ["higfa", command]:
            assert all(word in out for word in line.split() if word.startswith("--"))


def test_the_readme_says_what_a_clone_is_needed_for(python):
    needed = {command.split()[0] for command in COMMANDS} - {"higfa"}
    text = " ".join(README.split())
    said = re.search(r"An installation from the registry lacks (.*?)\. ", text)
    assert said and needed == {"demo", "exec", "serve", "test"} & {word for word in re.findall(r"\w+", said[1])}
    modules = re.findall(r"python run\.py exec -- python -m (\S+)", README)
    for module in modules:  # these are not the clone's alone
        assert python("-m", module, "--help")[0] == 0


def test_ray_without_its_module_ends_in_a_sentence(python, birds):
    planned = birds / "output" / "for ray"
    source = birds / "input" / "higfa_demo"
    workflow = "workflows/api/miniature_augment.json"
    assert python(*HIGFA, "plan", planned, "--workflow", workflow, "--source", source)[0] == 0
    code, _, err = python(*HIGFA, "run", planned, "--engine", "ray")
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1 and "clone" in err


def test_the_demo_runs_or_says_what_it_needs(python, tmp_path):
    code, out, err = python("-m", "higfa_core.commands.demo", "--base", tmp_path, "--server", "http://127.0.0.1:9")
    assert code == 1 and err.startswith("error: ") and "http://127.0.0.1:9" in err and "Traceback" not in err


@pytest.mark.slow
def test_pip_install_gives_the_command_with_its_files(pack, python, birds, tmp_path):
    """`pip install .`; the demo's workflow is not part of the package, so the demo says what it needs."""
    copy, target = tmp_path / "copy", tmp_path / "installed"
    shutil.copytree(pack, copy)  # pip builds in the folder
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", target)
    code, _, err = python("-m", "pip", "install", *options, copy)
    assert code == 0, err
    assert (target / "bin" / "higfa").is_file() or (target / "bin" / "higfa.exe").is_file()
    data = {path.relative_to(copy).as_posix() for path in (copy / "higfa_core").rglob("*") if path.suffix != ".pyc"}
    assert data <= {path.relative_to(target).as_posix() for path in target.rglob("*")}
    assert python("-c", "import higfa_core; print(higfa_core.__version__)", cwd=target)[1].strip() == __version__
    code, _, err = python(*HIGFA, "demo", "--base", tmp_path, cwd=target)
    assert code == 1 and "Run it from a clone" in err and "Traceback" not in err
