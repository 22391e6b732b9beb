"""Files that take the place of others while another process removes what dead ones have left."""

import os
import threading

import pytest

from higfa_core.files.atomic import replacing, write_atomic
from higfa_core.files.held import remove_left_parts


@pytest.fixture
def cleaning(tmp_path):
    """Removes what is left in a folder, over and over, as every command does when it starts."""
    stop = threading.Event()

    def clean():
        while not stop.is_set():
            remove_left_parts(tmp_path)

    thread = threading.Thread(target=clean)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_no_other_process_removes_what_is_being_written(tmp_path, cleaning, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for i in range(1000):
        write_atomic(tmp_path / "x", str(i).encode())
        assert (tmp_path / "x").read_text() == str(i)


def test_it_is_held_until_it_is_in_its_place(tmp_path, monkeypatch):
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda part, path: (remove_left_parts(tmp_path), replace(part, path)))
    write_atomic(tmp_path / "x", b"whole")
    assert (tmp_path / "x").read_bytes() == b"whole" and os.listdir(tmp_path) == ["x"]


def test_an_error_leaves_what_was_there(tmp_path):
    write_atomic(tmp_path / "x", b"before")
    with pytest.raises(KeyError), replacing(tmp_path / "x") as file:
        file.write(b"half")
        raise KeyError
    assert (tmp_path / "x").read_bytes() == b"before" and os.listdir(tmp_path) == ["x"]
