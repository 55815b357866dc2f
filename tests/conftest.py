"""Shared by all tests: one thread a process, since the suite itself runs in several; the longest
first; Ctrl-C as a terminal would have it; and coverage only where it tells something.
"""

import gc
import itertools
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coverage
import pytest
import torch

torch.set_num_threads(1)

# A shell's background jobs ignore SIGINT and pass that on; the programs that tests start and
# interrupt must not inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: What coverage leaves in the environment, so that processes started with it are measured too.
COVERAGE = "COVERAGE_PROCESS_CONFIG"
#: Where they are: lines of workers run in no test's own process. Elsewhere the same lines would be
#: traced again, at half as much more time for every start.
MEASURED = Path(__file__).parent / "bench" / "engine"
#: Tests of pages read records and little else of what is measured, all of which has tests of its
#: own; tracing makes them take twice as long.
UNMEASURED = tuple(Path(__file__).parent / name for name in ("leaderboard", "science"))
#: Here the first of a test's parameters runs nearly all the lines that the others do; tracing takes
#: an eighth longer where networks are called. Tests of every plugin stand elsewhere.
FIRST_ONLY = Path(__file__).parent / "bench"
_first: set[str] = set()
_coverage = os.environ.get(COVERAGE)
#: What traces this process, outermost last, while it is stopped: a worker of pytest's has two.
_stopped: list[coverage.Coverage] = []

#: Minutes each: begun first, no process is left with one of them at the end.
LONGEST = ("test_installed.py", "test_guest.py", "test_live_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    _first.update({item.nodeid.partition("[")[0]: item.nodeid for item in reversed(items)}.values())


#: Full collections between two that look at everything.
WHOLE_EVERY = 100
_full = itertools.count()


def pytest_collection_finish() -> None:
    """Every training, of a step or two here, ends with a full collection. What survives one is not
    looked at again by the next, or those after a file with a whole board in memory take longer
    than their tests.
    """
    gc.callbacks.append(_keep_survivors_apart)
    gc.collect()


def _keep_survivors_apart(phase: str, info: Mapping[str, int]) -> None:
    if info["generation"] < 2:
        return
    if phase == "stop":
        gc.freeze()
    elif next(_full) % WHOLE_EVERY == 0:
        gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, since fixtures of a whole file start processes too."""
    _trace(
        not any(folder in item.path.parents for folder in UNMEASURED)
        and (FIRST_ONLY not in item.path.parents or item.nodeid in _first)
    )
    if _coverage is None:
        return
    if MEASURED in item.path.parents:
        os.environ[COVERAGE] = _coverage
    else:
        os.environ.pop(COVERAGE, None)


def _trace(on: bool) -> None:
    """As pytest-cov does for a test that is marked ``no_cover``, but with its fixtures."""
    while on and _stopped:
        _stopped.pop().start()
    while not on and (running := coverage.Coverage.current()) is not None:
        running.stop()
        _stopped.append(running)


@pytest.fixture(scope="session")
def tiny_digits() -> dict[str, Any]:
    """Of a suite: a testbed and attacks that take seconds, every stage of them the engine's own."""
    return {
        "testbeds": [
            {
                "name": "digits-ddpm",
                "params": {"clean_samples": 24, "triggered_samples": 8, "num_inference_steps": 4},
            }
        ],
        "attacks": [
            {"name": "none", "params": {"training_steps": 2}},
            {
                "name": "baddiffusion",
                "params": {"training_steps": 2, "poisoned_image": "trigger_only"},
            },
        ],
    }
