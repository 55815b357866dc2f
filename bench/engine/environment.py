"""The variables of the processes that a run starts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

#: glibc allocates fresh pages for every large tensor and returns them at once; keeping them saves
#: thousands of page faults per step. Bytes.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
_FIXED = {"PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
#: Of a process with a third party's plugin: what it compiles would go where nobody reads it again,
#: or beside somebody's file.
UNWRITTEN = {"PYTHONDONTWRITEBYTECODE": "1"}
#: Variables that hold no secret, judging by their names.
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|AUTH|COOKIE", re.I)


def of_a_worker(threads: int) -> dict[str, str]:
    """This process's, for a Python that finds the same modules and no others, not even a json.py of
    the folder in which it is started, with so many threads of libraries. Each of its numbers has to
    be the same wherever it is started.
    """
    counted = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    path = {"PYTHONPATH": os.pathsep.join(search_path())}
    return {**_ALLOCATOR, **os.environ, **dict.fromkeys(counted, str(threads)), **_FIXED, **path}


def cleared(environment: Mapping[str, str]) -> dict[str, str]:
    """Without the variables whose names say that they are secret."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


def search_path() -> list[str]:
    """Where this process finds modules, for another Python."""
    return [entry or os.getcwd() for entry in sys.path]


def hub_home() -> Path:
    """Where the hub's client keeps what was downloaded."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.path.abspath(os.environ.get("HF_HOME") or Path(cache, "huggingface")))
