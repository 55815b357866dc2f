"""The store: nothing half-written is ever read, and a store that cannot be used says so in one line."""

import errno
import os

import pytest

from bench.engine.store import GRAVE, Store, commit, discard, is_disk_full, write_atomically
from bench.errors import UserError

KEY = "ab" * 32


def test_a_stage_appears_whole(tmp_path):
    store = Store(tmp_path / "store")
    made = store.new_folder(KEY)
    made.mkdir()
    (made / "array.npz").write_bytes(b"x")
    assert not store.finished(KEY)
    commit(made, store.folder(KEY), {"stage": "train", "cost": {}})
    assert store.finished(KEY)
    assert store.manifest(KEY)["stage"] == "train"
    assert list(store.manifests()) == [store.manifest(KEY)]
    assert not made.exists()


def test_the_first_of_two_equal_results_stands(tmp_path):
    store = Store(tmp_path)
    for text in ("first", "second"):
        made = store.new_folder(KEY)
        made.mkdir()
        (made / "value").write_text(text)
        commit(made, store.folder(KEY), {})
    assert (store.folder(KEY) / "value").read_text() == "first"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_cleaning_spares_what_a_living_run_is_making(tmp_path):
    store = Store(tmp_path)
    alive, dead = store.new_folder("a1" * 32), store.new_folder("d2" * 32)
    for folder in (alive, dead, tmp_path / "tmp" / f"{GRAVE}x"):
        folder.mkdir()
    lock = store.try_lock("a1" * 32)
    assert store.try_lock("a1" * 32) is None
    store.clean()
    assert list((tmp_path / "tmp").iterdir()) == [alive]
    lock.release()
    store.clean()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_worker_cannot_finish_what_was_discarded(tmp_path):
    """Otherwise a dying run's half-removed folder could be put in place."""
    store = Store(tmp_path)
    made = store.new_folder(KEY)
    made.mkdir()
    discard(made)
    with pytest.raises(OSError):
        commit(made, store.folder(KEY), {})
    assert not store.finished(KEY)


def test_a_store_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(UserError, match="must be a folder, but it is a file"):
        Store(tmp_path / "store")


def test_an_unwritable_store_is_refused(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(UserError, match=r"cannot be written: Permission denied$"):
        Store(tmp_path / "store")


def test_a_file_in_the_way_of_the_store_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        Store(tmp_path / "file" / "store")


def test_a_failed_replacement_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "runs.json"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_recognised_behind_other_exceptions():
    wrapped = ValueError("could not save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert is_disk_full(wrapped)
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
