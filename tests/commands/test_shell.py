"""How commands read arguments and fail, and what they say to people and programs."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from higfa_core.commands import main as cli
from higfa_core.commands import progress
from higfa_core.commands.progress import images_per_hour, spoken_time
from higfa_core.commands.shell import CALLED_AS, command, hint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def refused(capsys):
    """What a command line that is wrong is told."""

    def refused(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(list(words))
        out, err = capsys.readouterr()
        assert stop.value.code == 2 and out == "" and err.count("\n") == 1
        return err

    return refused


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("exprot", "x"), "unknown command: 'exprot'. Did you mean export?"),
        (("status", "x", "--jsn"), "unrecognized arguments: --jsn. Did you mean --json?"),
        (("run", "x", "--srever=http://x"), "Did you mean --server?"),
        (("export", "x", "--otu", "y", "--format", "coco"), "required: --out. Did you mean --out?"),
        (("export", "x", "--out", "y", "--format", "imagefodler"), "'imagefodler'. Did you mean imagefolder?"),
        (("export", "x", "--out", "y", "--format", "zzz"), "unknown --format: 'zzz'. Choose from imagefolder, "),
        (("run",), "`higfa run --help` lists them all."),
    ],
)
def test_a_mistyped_command_or_option_is_guessed(refused, words, said):
    assert said in refused(*words)


def test_no_guess_where_nothing_is_like_it(refused):
    assert "Did you mean" not in refused("run", "x", "--zzz")


def test_hints_can_be_pasted(monkeypatch):
    assert hint("run", Path("my birds"), "--server", "URL") == "higfa run 'my birds' --server URL" or os.name == "nt"
    monkeypatch.setenv(CALLED_AS, "python run.py higfa")
    assert hint("run", "birds") == "python run.py higfa run birds" and hint() == "python run.py higfa"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("No such thing: 3. Give 4."), 1, "error: No such thing: 3. Give 4.\n"),
        (ConnectionError("gone"), 1, "error: gone\n"),
        (RuntimeError("CUDA out of memory"), 1, "error: CUDA out of memory. Lower --size.\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted. Nothing made so far is lost; the same command resumes.\n"),
    ],
)
def test_a_command_fails_in_a_sentence(capsys, error, code, said):
    @command(lower="--size")
    def fails(argv=None):
        raise error

    assert fails() == code and capsys.readouterr() == ("", said)


def test_an_error_of_ours_is_not_hidden():
    @command()
    def broken(argv=None):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        broken()


@pytest.mark.parametrize(
    ("seconds", "words"), [(42, "42 s"), (800, "13 min"), (18420, "5 h 07 min"), (273_600, "3 d 4 h")]
)
def test_durations_as_people_say_them(seconds, words):
    assert spoken_time(seconds) == words


def test_the_rate_is_that_of_the_last_ten_minutes(tmp_path):
    minutes = [0, 100, 101, 102, 104]
    times = [f"2026-01-01T{minute // 60:02}:{minute % 60:02}:00+00:00" for minute in minutes]
    lines = [json.dumps({"created": time}) for time in times]
    (tmp_path / "manifest.jsonl").write_text("torn\n" + "\n".join([*lines, "[]", "{}", '{"created": ""}', '{"cr']))
    assert images_per_hour(tmp_path) == pytest.approx(3 / 4 * 60)
    (tmp_path / "manifest.jsonl").write_text(lines[0])
    assert images_per_hour(tmp_path) is None and images_per_hour(tmp_path / "none") is None


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_bar_in_a_terminal_and_lines_elsewhere(terminal):
    file = io.StringIO()
    file.isatty = lambda: terminal
    with progress.CountView("exported", file, every=0.0) as view:
        for done in range(1, 4):
            view(done, 3)
    lines = [f"exported: {done} of 3" for done in range(1, 4)]
    assert ("\r" in file.getvalue()) == terminal and (file.getvalue().splitlines() == lines) == (not terminal)


def test_help_starts_without_heavy_libraries():
    code = "import sys\nfrom higfa_core.commands.main import main\n"
    code += "try: main(['run', '--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'numpy', 'cv2', 'ray'} & set(sys.modules)\nsys.exit(f'imported {heavy}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "--job-timeout" in done.stdout, done.stderr
