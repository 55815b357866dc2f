"""Work in a second process: whatever becomes of it, a reader gets the files that one process
writes.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from leaderboard import report
from leaderboard.apart import apart


@pytest.fixture(autouse=True)
def threads_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not count: who has drawn a progress bar has one for good (tqdm's)."""
    count = threading.active_count
    others = count() - 1
    monkeypatch.setattr(threading, "active_count", lambda: count() - others)


def processes(folder: Path) -> set[str]:
    """The process ids that were noted in a folder."""
    return {file.name for file in folder.iterdir()}


def test_texts_come_back_as_they_are(tmp_path: Path) -> None:
    """Whatever stands in a record, the lone surrogate of a file's name among it."""
    texts = ["", "a\n0 1\n", "é \udcff \0", "long " * 200_000]

    def make() -> list[str]:
        (tmp_path / str(os.getpid())).touch()
        return texts

    with apart(make, worth_it=True) as made:
        assert made() == texts
    assert processes(tmp_path) and str(os.getpid()) not in processes(tmp_path), "no fork made them"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_fork_that_dies_is_made_up_for(tmp_path: Path, sent: int) -> None:
    """A machine that runs out of memory kills something; the board is written all the same."""
    here = os.getpid()

    def make() -> list[str]:
        (tmp_path / str(os.getpid())).touch()
        if os.getpid() != here:
            os.kill(os.getpid(), sent)
        return ["made"]

    with apart(make, worth_it=True) as made:
        assert made() == ["made"]
    assert len(processes(tmp_path)) == 2
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # nothing is left behind


def test_half_of_what_a_fork_made_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is killed while it writes has said how long its texts are."""
    here, write = os.getpid(), os.fdopen

    def cut(descriptor: int, mode: str) -> object:
        if os.getpid() != here:
            os.write(descriptor, b"5 5\nwhole")
            os._exit(1)
        return write(descriptor, mode)

    monkeypatch.setattr(os, "fdopen", cut)
    with apart(lambda: ["whole", "texts"], worth_it=True) as made:
        assert made() == ["whole", "texts"]


def test_an_error_is_raised_where_it_is_asked_for() -> None:
    def make() -> list[str]:
        raise ValueError("not a number")

    with apart(make, worth_it=True) as made, pytest.raises(ValueError, match="not a number"):
        made()


def test_an_error_of_the_other_work_leaves_no_process() -> None:
    """The fork's texts are larger than a pipe: it would wait for a reader for ever."""
    with pytest.raises(RuntimeError), apart(lambda: ["x" * 10**6], worth_it=True):
        raise RuntimeError
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("why", ["not worth it", "a thread"])
def test_one_process_does_it_by_itself(why: str) -> None:
    """A fork of a process with threads may find a lock that nobody will open."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    if why == "a thread":
        thread.start()
    try:
        with apart(lambda: [str(os.getpid())], worth_it=why == "a thread") as made:
            assert made() == [str(os.getpid())]
    finally:
        done.set()
        if why == "a thread":
            thread.join()


def test_a_large_board_has_the_bytes_of_a_small_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for many in (10**9, 1):
        monkeypatch.setattr(report, "MANY", many)
        page = report.build(store, tmp_path / f"{many}" / "board.html")
        written.append([page.with_suffix(end).read_bytes() for end in (".html", ".csv", ".json")])
    assert written[0] == written[1]
