"""Shared by all tests: one thread a process, since the suite itself runs in several; the longest
first; Ctrl-C as a terminal would have it; and coverage of other processes only where it is about
them.
"""

import os
import signal
from pathlib import Path
from typing import Any

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
_coverage = os.environ.get(COVERAGE)

#: Minutes each: begun first, no process is left with one of them at the end.
LONGEST = ("test_installed.py", "test_guest.py", "test_live_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture, since fixtures of a whole file start processes too."""
    if _coverage is None:
        return
    if MEASURED in item.path.parents:
        os.environ[COVERAGE] = _coverage
    else:
        os.environ.pop(COVERAGE, None)


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
