"""The store: nothing half-written is ever read, and a store that cannot be used says so in one
line.
"""

import errno
import os
import time

import pytest

from bench.engine import store as store_module
from bench.engine.store import GRAVE, Store, commit, discard, is_disk_full, write_atomically
from bench.errors import UserError
from bench.manifest import MANIFEST, fault

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


def finished_stage(folder, name="array.npz"):
    store = Store(folder)
    made = store.new_folder(KEY)
    made.mkdir()
    (made / name).write_bytes(b"0123456789")
    commit(made, store.folder(KEY), {"stage": "train", "cost": {}})
    return store, store.folder(KEY) / name


@pytest.mark.parametrize("damage", [b"", b"01234", b"0123456789x", None])
def test_a_stage_that_lost_something_is_not_finished(tmp_path, damage):
    """A copy that was cut off: what is read from it would be wrong, or fail for ever."""
    store, file = finished_stage(tmp_path)
    file.unlink() if damage is None else file.write_bytes(damage)
    assert not Store(tmp_path).finished(KEY) and Store(tmp_path).fault(KEY).startswith("array.npz ")


def test_one_flipped_byte_is_found(tmp_path):
    """Weights with one byte flipped load without a word and give other numbers."""
    store, file = finished_stage(tmp_path)
    assert store.fault(KEY) == ""
    file.write_bytes(b"0123456780")
    assert Store(tmp_path).fault(KEY) == "array.npz is not what was written (SHA-256 differs)"
    wrong, aside = store.put_aside(KEY)
    assert wrong.startswith("array.npz ") and not store.finished(KEY)
    assert (aside / "array.npz").read_bytes() == b"0123456780"
    store.clean()
    assert aside.exists(), "it is for a person to look at"


def test_only_what_is_unusable_is_moved_away(tmp_path):
    """On a file system without locks another machine makes a stage while this one looks at it: it
    was moved away, whole, and stayed in ``tmp/`` for ever.
    """
    store, file = finished_stage(tmp_path)
    assert store.put_aside(KEY) is None and Store(tmp_path).finished(KEY)
    file.write_bytes(b"0123456780")

    def replaced(folder):
        """Looks, and then the other machine's is there."""
        wrong = fault(folder, contents=True)
        if folder == file.parent:
            file.write_bytes(b"0123456789")
        return wrong

    assert store.put_aside(KEY, replaced) is None
    assert Store(tmp_path).fault(KEY) == "" and list((tmp_path / "tmp").iterdir()) == []


def test_a_stage_from_before_hashes_were_kept_is_finished(tmp_path):
    store, file = finished_stage(tmp_path)
    (file.parent / MANIFEST).write_text('{"stage": "train", "cost": {}}')
    assert Store(tmp_path).finished(KEY) and Store(tmp_path).fault(KEY) == ""


def test_what_is_made_in_a_shared_store_can_be_used_by_the_group(tmp_path):
    """With a umask of 022, or 077, the second user's locks and stages shut the first one out of his
    own store.
    """
    root = tmp_path / "store"
    root.mkdir()
    root.chmod(0o2770)
    before = os.umask(0o077)
    try:
        store, file = finished_stage(root)
        store.try_lock("a1" * 32).release()
        write_atomically(root / "runs" / "x.json", "{}")
    finally:
        os.umask(before)
    for path in [
        root / "locks" / f"{'a1' * 32}.lock",
        root / "runs" / "x.json",
        file,
        file.parent / MANIFEST,
    ]:
        assert path.stat().st_mode & 0o777 == 0o660, path
    for folder in [root / "tmp", root / "locks", root / "stages", file.parent.parent, file.parent]:
        assert folder.stat().st_mode & 0o770 == 0o770, folder


def test_a_private_store_stays_private(tmp_path):
    root = tmp_path / "store"
    root.mkdir(mode=0o700)
    store, file = finished_stage(root)
    lock = root / "locks" / "x.lock"
    store.lock("x").release()
    assert lock.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied"),
            r"locks/x\.lock cannot be taken: Permission denied \(of .*umask is",
        ),
        (
            OSError(errno.ENOLCK, "No locks available"),
            r"locks/x\.lock cannot be taken: No locks available .*choose another folder",
        ),
        (
            NotImplementedError("no flock"),
            r"locks/x\.lock cannot be taken: no flock .*choose another folder",
        ),
    ],
)
def test_a_lock_that_cannot_be_taken_is_named(tmp_path, monkeypatch, error, message):
    """The line used to name the account, or to be a traceback."""
    store = Store(tmp_path)
    (tmp_path / "locks" / "x.lock").touch()

    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(UserError, match=message):
        store.lock("x")
    store.new_folder("x").mkdir()
    store.clean()
    assert len(list((tmp_path / "tmp").iterdir())) == 1, "left alone"


def test_a_store_is_looked_into_without_writing(tmp_path, monkeypatch):
    """Whoever may only read a store can still plan over it."""
    finished_stage(tmp_path)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("mkdir", "write_bytes", "write_text"):
        monkeypatch.setattr(f"pathlib.Path.{name}", refuse)
    assert Store(tmp_path, read_only=True).finished(KEY)


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


def test_cleaning_spares_what_another_machine_may_be_making(tmp_path, monkeypatch):
    """A lock that is free says nothing where locks do not hold between machines."""
    monkeypatch.setattr(store_module, "machine", lambda: "far")
    made = Store(tmp_path).new_folder("a1" * 32)
    made.mkdir()
    (made / "value").write_text("half")
    monkeypatch.setattr(store_module, "machine", lambda: "here")
    Store(tmp_path).clean()
    assert (made / "value").is_file()
    before = time.time() - 2 * 86_400
    for path in (made / "value", made):
        os.utime(path, (before, before))
    Store(tmp_path).clean()
    assert not made.exists()


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


def test_an_exception_without_words_or_behind_itself_is_no_full_disk():
    """Asked of whatever a plugin raises: failing or turning in a circle here, the worker took the
    reason with it.
    """

    class Wordless(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    error = Wordless()
    error.__cause__ = error
    assert not is_disk_full(error)
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert is_disk_full(error)


def test_numpy_says_how_much_it_wrote_on_a_full_disk():
    """It names no reason: the stage was tried again, and all others were begun after it."""
    assert is_disk_full(OSError("100000 requested and 8176 written"))
    assert not is_disk_full(ValueError("100000 requested and 8176 written"))
    assert not is_disk_full(OSError("of 100000 requested and 8176 written"))


def test_without_file_locks_no_other_kind_is_used(tmp_path, monkeypatch):
    """A lock that is only a file stays when its machine dies: the stage would wait for ever."""
    store = Store(tmp_path)

    def flock(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    for _ in range(2):
        with pytest.raises(UserError, match=r"x\.lock cannot be taken: Function not implemented"):
            store.lock("x", timeout=0)
