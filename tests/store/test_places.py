"""Pipes, devices and links in the place of files, and an index that came with the folder from somewhere else."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from higfa_core.batch.states import States
from higfa_core.commands import main as cli
from higfa_core.files.reading import read_bytes
from higfa_core.store.manifest import Manifest

from ..crashes.world import WORKFLOW, build

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has neither pipes nor devices in folders")
RUN = ("--server", "http://127.0.0.1:9", "--wait", "0.1", "--quiet")
STRICT = ("--min-sharpness", "100")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return build(tmp_path_factory.mktemp("places"))


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made / "real", tmp_path / "real")
    (tmp_path / "outside").mkdir()
    return shutil.copytree(made / "set", tmp_path / "set")


def special(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize(
    ("file", "command"),
    [
        ("set/manifest.jsonl", ["status"]),
        ("set/manifest.jsonl", ["filter", *STRICT]),
        ("set/manifest.jsonl", ["run", *RUN]),
        ("set/plan.json", ["run", *RUN]),
        ("set/plan.jsonl", ["status"]),
        ("real/held_out.txt", ["plan", "new", "--workflow", WORKFLOW, "--source", "real"]),
    ],
)
def test_a_pipe_or_a_device_is_refused_or_no_file(folder, tmp_path, monkeypatch, capsys, file, command, kind):
    special(tmp_path / file, kind)
    monkeypatch.chdir(tmp_path)
    name, *options = map(str, command)
    status = cli.main([name, *options] if name == "plan" else [name, "set", *options])
    error = capsys.readouterr().err
    assert status == (0 if "held_out" in file else 1), error  # it is no list
    assert status == 0 or "where a file is needed. Replace it" in error or "stopped, no usable" in error, error


def test_only_files_are_read(tmp_path):
    for kind in ("pipe", "device"):
        special(tmp_path / "x", kind)
        with pytest.raises(OSError, match="device or address"):
            read_bytes(tmp_path / "x")
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


@pytest.mark.parametrize("name", ["manifest.jsonl", "jobs.sqlite", "lock.sqlite"])
def test_no_link_is_written_through(folder, tmp_path, capsys, name):
    """`manifest.jsonl` might lead to a script that a shell runs: a row can hold any text."""
    target = tmp_path / "outside" / "file"
    if (folder / name).exists():
        (folder / name).replace(target)
    (folder / name).symlink_to(target)
    before = target.read_bytes() if target.exists() else None
    if name == "manifest.jsonl":
        (row, *_) = Manifest(folder).rows()
        with pytest.raises(ValueError, match="manifest.jsonl is a link"):
            Manifest(folder).append(row)
    commands = {"manifest.jsonl": ["filter", *STRICT], "jobs.sqlite": ["status"], "lock.sqlite": ["run", *RUN]}
    command, *options = commands[name]
    assert cli.main([command, str(folder), *options]) == 1
    assert f"{name} is a link, and may lead to any file" in capsys.readouterr().err
    assert (target.read_bytes() if target.exists() else None) == before


@pytest.mark.parametrize("place", ["train", "train/b"])
def test_images_are_not_moved_through_links(folder, tmp_path, capsys, place):
    shutil.move(folder / place, tmp_path / "outside" / "images")
    (folder / place).symlink_to(tmp_path / "outside" / "images")
    before = sorted(path.name for path in (tmp_path / "outside").rglob("*"))
    assert cli.main(["filter", str(folder), *STRICT]) == 1
    assert "leads outside" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "outside").rglob("*")) == before


HOSTILE = {
    "paths": "UPDATE images SET file = '../outside/x.png'",
    "places of rows": "UPDATE images SET at = 5, accepted = 0",
    "bodies": "UPDATE jobs SET body = '[]', state = 'planned'",
    "types": "UPDATE jobs SET class = 'x', body = NULL, key = NULL",
    "counts": "UPDATE classes SET name = 5, quota = 'x', accepted = 'y'",
    "offsets": "UPDATE meta SET value = 'x' WHERE name = 'offset'",
    "batches": "UPDATE images SET batch = 'x', i = 'y'",
    "statements": "UPDATE jobs SET team = '[1); DROP TABLE jobs; --]', state = 'planned'",
    "scores": "UPDATE images SET scores = '['",
    "columns": "ALTER TABLE jobs DROP COLUMN body",
}
ENDLESS = """CREATE VIEW meta AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
    SELECT x AS name, x AS value FROM c"""


def rewrite(folder, *statements):
    """The index as somebody else has made it: in a file of its own."""
    with closing(States(folder)):
        pass
    with closing(sqlite3.connect(folder / "jobs.sqlite")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.execute("PRAGMA journal_mode = DELETE")
    shutil.copy(folder / "jobs.sqlite", folder / "copy")
    os.replace(folder / "copy", folder / "jobs.sqlite")


@pytest.mark.parametrize("statement", HOSTILE.values(), ids=HOSTILE)
def test_an_index_from_elsewhere_is_built_again(folder, capsys, statement):
    rewrite(folder, statement)
    assert cli.main(["status", str(folder), "--json"]) == 0
    assert '"done": 8' in capsys.readouterr().out
    with closing(States(folder)) as states:
        assert states.counts()["done"] == 8


@pytest.mark.parametrize("command", [["status"], ["run", *RUN]])
def test_an_index_that_is_none_is_named(folder, capsys, command):
    rewrite(folder, "DROP TABLE meta", ENDLESS)
    for content in (None, b"\0" * 5000, os.urandom(3000)):
        for name in ("jobs.sqlite", "lock.sqlite"):
            if content:
                (folder / name).write_bytes(content)
            assert cli.main([command[0], str(folder), *command[1:]]) == 1
            error = capsys.readouterr().err
            assert "sqlite is damaged (" in error and "Delete it: it is made again." in error
            (folder / name).unlink() if content else None
