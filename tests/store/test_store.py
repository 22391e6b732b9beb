import hashlib
import json
import logging
import multiprocessing
import os

import pytest

from higfa_core.files.atomic import LOCK, write_atomic
from higfa_core.files.held import create_held
from higfa_core.store.manifest import Manifest, decide
from higfa_core.store.rows import parse_row

from ..batch.fake_comfy import ROW_FIELDS


def row(key="k", index=0, file=None, **values):
    base = dict.fromkeys(ROW_FIELDS)
    base |= {"key": key, "index": index, "file": file or f"train/a/{key}-{index}.png", "class_name": "a"}
    return base | {"label": 0, "batch": 1, "accepted": True, "reason": "fine", "scores": {}} | values


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != LOCK)


def lines(folder):
    return (folder / "manifest.jsonl").read_bytes().splitlines()


def test_write_stores_image_and_row(tmp_path):
    manifest = Manifest(tmp_path)
    assert manifest.write(row(transform={"angle": 3}), b"pixels") == "written"
    (stored,) = Manifest(tmp_path).rows()
    assert (tmp_path / stored["file"]).read_bytes() == b"pixels"
    assert stored["sha256"] == hashlib.sha256(b"pixels").hexdigest() and stored["bytes"] == 6
    assert stored["transform"] == {"angle": 3}
    assert files(tmp_path) == ["manifest.jsonl", "train/a/k-0.png"]


def test_the_same_image_twice_is_dropped(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.write(row(), b"pixels")
    before = (tmp_path / "train/a/k-0.png").stat().st_mtime_ns
    assert [manifest.write(row(), b"pixels"), Manifest(tmp_path).write(row(), b"pixels")] == ["same", "same"]
    assert (tmp_path / "train/a/k-0.png").stat().st_mtime_ns == before
    assert len(lines(tmp_path)) == 1


def test_another_image_of_the_same_job_is_kept_out_unless_replacing(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.write(row(), b"old")
    assert manifest.write(row(), b"new") == "kept"
    assert (tmp_path / "train/a/k-0.png").read_bytes() == b"old"
    moved = row(file="rejected/a/k-0.png", accepted=False)
    assert manifest.write(moved, b"new", replace=True) == "replaced"
    assert files(tmp_path) == ["manifest.jsonl", "rejected/a/k-0.png"]
    assert [r["accepted"] for r in Manifest(tmp_path).rows()] == [False]


@pytest.mark.parametrize("damage", ["delete", "cut", "change"])
def test_a_damaged_file_is_made_again(tmp_path, damage):
    manifest = Manifest(tmp_path)
    manifest.write(row(), b"pixels")
    path = tmp_path / "train/a/k-0.png"
    path.unlink() if damage == "delete" else path.write_bytes(b"pix" if damage == "cut" else b"PIXELS")
    assert not manifest.is_intact(manifest.get("k", 0))
    assert bool(manifest.missing()) == (damage != "change")
    assert manifest.write(row(), b"pixels") == "replaced"
    assert path.read_bytes() == b"pixels" and len(Manifest(tmp_path).rows()) == 1


def test_a_last_line_cut_at_any_byte_is_survived(tmp_path, caplog):
    manifest = Manifest(tmp_path)
    manifest.write(row("first", prompt="Zürich"), b"1")
    manifest.write(row("last", prompt="鴉"), b"2")
    whole = (tmp_path / "manifest.jsonl").read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start, len(whole) + 1):
        (tmp_path / "manifest.jsonl").write_bytes(whole[:end])
        caplog.clear()
        reopened = Manifest(tmp_path)
        survives = end >= len(whole) - 1  # only the newline may be missing
        assert [r["key"] for r in reopened.rows()] == ["first", "last"][: 1 + survives], end
        assert ("is damaged (cut short)" in caplog.text) == (start < end < len(whole) - 1), end
        reopened.write(row("last", prompt="鴉"), b"2")
        reopened.write(row("third"), b"3")
        assert [r["key"] for r in Manifest(tmp_path).rows()] == ["first", "last", "third"], end
        assert sum(row["key"] == "last" for row in filter(None, map(parse_row, lines(tmp_path)))) == 1, end


def killed_before_the_row(monkeypatch):
    """The process ends as it writes to a manifest: the only file that is written by its descriptor."""
    monkeypatch.setattr(os, "write", lambda descriptor, data: (_ for _ in ()).throw(KeyboardInterrupt))


def test_a_crash_between_image_and_row_is_resumed(tmp_path, monkeypatch):
    manifest = Manifest(tmp_path)
    killed_before_the_row(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        manifest.write(row(file="train/a/k-0.png"), b"half")
    monkeypatch.undo()
    assert files(tmp_path) == ["manifest.jsonl", "train/a/k-0.png"] and Manifest(tmp_path).rows() == []
    # The second time the verdict may be another one: the orphan must not stay in the training set.
    again = row(file="rejected/a/k-0.png", accepted=False)
    assert Manifest(tmp_path).write(again, b"whole", stale=("train/a/k-0.png",)) == "written"
    assert files(tmp_path) == ["manifest.jsonl", "rejected/a/k-0.png"]


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    write_atomic(tmp_path / "x.png", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_atomic(tmp_path / "x.png", b"new")
    assert files(tmp_path) == ["x.png"] and (tmp_path / "x.png").read_bytes() == b"old"


def test_temporary_files_are_no_images_and_those_of_dead_processes_are_swept(tmp_path, monkeypatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append(a), replace(a, b)))
    write_atomic(tmp_path / "train/a/x.png", b"1")
    assert seen[0].parent == tmp_path / "train/a" and seen[0].suffix == ".part"
    Manifest(tmp_path).write(row(), b"1")
    # Of this very process, as after a restart in a container, where it is number 1 again.
    dead = tmp_path / f"train/a/.x.png.{os.getpid()}.00112233.part"
    alive, users = tmp_path / "train/a/.x.png.2.aabbccdd.part", tmp_path / "train/a/notes.part"
    dead.touch(), users.touch()
    held = create_held(alive)
    Manifest(tmp_path)
    assert not dead.exists() and alive.exists() and users.exists()
    os.close(held)
    Manifest(tmp_path)
    assert not alive.exists() and users.exists()


@pytest.mark.parametrize(
    "bad", [{"scores": {"confidence": float("nan")}}, {"transform": object()}, {"file": "../x.png"}, {"file": "/x.png"}]
)
def test_a_bad_row_leaves_no_image(tmp_path, bad):
    with pytest.raises(ValueError):
        Manifest(tmp_path).write(row(**bad), b"pixels")
    assert files(tmp_path) == []


def test_a_row_without_a_field_is_refused(tmp_path):
    broken = row()
    del broken["seed"], broken["prompt"]
    with pytest.raises(ValueError, match="lacks seed"):
        Manifest(tmp_path).append(broken)


def test_a_manifest_that_points_elsewhere_cannot_delete(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "manifest.jsonl").write_text(json.dumps(row(file="../victim.txt", sha256="", bytes=4)) + "\n")
    Manifest(folder).write(row(), b"pixels", replace=True)
    assert victim.read_text() == "mine"


def _append_many(folder, name, count):
    manifest = Manifest(folder)
    for i in range(count):
        manifest.write(row(f"{name}{i}", prompt="x" * 5000), f"{name}{i}".encode())
        manifest.write(row(f"shared{i}"), b"the same")


def test_two_processes_append(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(tmp_path, name, 40)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    manifest = Manifest(tmp_path)
    assert {r["key"] for r in manifest.rows()} == {f"{n}{i}" for n in ("a", "b", "shared") for i in range(40)}
    assert all(json.loads(line) for line in lines(tmp_path) if line)
    assert len(manifest.rows()) == 120 and all(manifest.is_intact(r) for r in manifest.rows())
    assert len(files(tmp_path)) == 121


def test_refresh_follows_another_writer_and_a_new_file(tmp_path):
    mine, other = Manifest(tmp_path), Manifest(tmp_path)
    other.write(row("theirs"), b"1")
    mine.refresh()
    assert mine.get("theirs", 0)
    assert mine.write(row("theirs"), b"1") == "same"
    (tmp_path / "manifest.jsonl").unlink()
    mine.refresh()
    assert mine.rows() == []


def test_reading_resumes_where_it_stopped(tmp_path):
    manifest = Manifest(tmp_path)
    for i in range(20):
        manifest.append(row(f"k{i}", sha256="", bytes=0))
    with open(tmp_path / "manifest.jsonl", "r+b") as file:  # in place, so that whoever reads it again loses rows
        file.write(file.read(1) and b"\n" * (os.path.getsize(file.name) - 1))
    manifest.append(row("new", sha256="", bytes=0))
    assert len(manifest) == 21 and len(Manifest(tmp_path)) == 1
    with pytest.raises(ValueError, match="was replaced while it was read"):
        manifest.rows()


def test_another_verdict_moves_the_image_and_survives_a_crash_half_way(tmp_path, monkeypatch):
    manifest = Manifest(tmp_path)
    manifest.write(row(), b"pixels")
    moved = decide(tmp_path, manifest.get("k", 0), False, "blurred")
    assert files(tmp_path) == ["manifest.jsonl", "rejected/a/k-0.png"]
    manifest.refresh()
    assert manifest.get("k", 0) == moved and not moved["accepted"] and manifest.is_intact(moved)
    assert decide(tmp_path, moved, False, "still")["file"] == moved["file"]
    killed_before_the_row(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        decide(tmp_path, moved, True, "fine")
    monkeypatch.undo()
    again = Manifest(tmp_path)
    assert again.is_intact(again.get("k", 0)) and again.missing() == []


def test_missing_sees_deleted_and_cut_files_also_after_a_clean_look(tmp_path):
    manifest = Manifest(tmp_path)
    for i in range(3):
        manifest.write(row(f"k{i}", mask=f"masks/a/k{i}.png"), b"pixels", extra={f"masks/a/k{i}.png": b"mask"})
    for folder in ("train/a", "masks/a"):
        os.utime(tmp_path / folder, (1, 1))  # long ago, so that the next look is remembered
    assert manifest.missing() == [] == manifest.missing()
    (tmp_path / "train/a/k0-0.png").unlink()
    (tmp_path / "masks/a/k1.png").unlink()
    assert [r["key"] for r in manifest.missing()] == ["k0", "k1"]
    manifest.write(row("k0", mask="masks/a/k0.png"), b"pixels")
    manifest.write(row("k1", mask="masks/a/k1.png"), b"pixels", extra={"masks/a/k1.png": b"mask"})
    assert manifest.missing() == []


def test_status_counts_classes(tmp_path):
    manifest = Manifest(tmp_path)
    manifest.start(("a", "b", "c"))
    manifest.write(row("1"), b"1")
    manifest.write(row("2", accepted=False, file="rejected/a/2.png"), b"2")
    manifest.write(row("3", class_name="b", file="train/b/3.png"), b"3")
    assert manifest.status({"a": 5, "b": 5}) == {
        "a": {"planned": 5, "written": 2, "accepted": 1},
        "b": {"planned": 5, "written": 1, "accepted": 1},
        "c": {"planned": 0, "written": 0, "accepted": 0},
    }


def test_dataset_json_is_written_once(tmp_path):
    assert Manifest(tmp_path).start(("a", "鴉"))["classes"] == ["a", "鴉"]
    before = (tmp_path / "dataset.json").read_bytes()
    assert json.loads(before).keys() == {"classes", "version", "generator"}
    Manifest(tmp_path).start(("a", "鴉"))
    assert (tmp_path / "dataset.json").read_bytes() == before
    for other in (("鴉", "a"), ("a",), ("a", "b", "鴉")):
        with pytest.raises(ValueError, match="Choose another dataset_name"):
            Manifest(tmp_path).start(other)


def test_a_whole_manifest_gives_no_warning(tmp_path, caplog):
    Manifest(tmp_path).write(row(), b"1")
    with caplog.at_level(logging.WARNING):
        Manifest(tmp_path)
    assert not caplog.records
