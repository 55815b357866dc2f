"""The machine and software that made a number. Descriptive only: it never affects a result."""

from __future__ import annotations

import platform
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from bench.engine.fingerprint import ROOT, versions
from bench.version import VERSION

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "accelerate",
    "transformers",
    "torch-fidelity",
    "numpy",
    "scipy",
    "scikit-learn",
)


@lru_cache(maxsize=1)
def provenance() -> dict[str, Any]:
    """Package and git version, packages, Python, platform and processor, as JSON values."""
    return {
        "castlewalls": VERSION,
        "git": git_state(ROOT),
        "packages": versions(PACKAGES),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """``{"commit", "dirty"}`` of a checkout; ``None`` outside one (an installed package).
    ``commit`` is ``None`` before the first.
    """
    if not (folder / ".git").exists():
        return None

    def git(*arguments: str) -> str | None:
        try:
            # Git refuses another user's checkout; reading its state is harmless.
            command = ["git", "-c", f"safe.directory={folder}", "-C", str(folder), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def cpu_model() -> str:
    """The processor's model name on Linux, elsewhere Python's name for it."""
    if sys.platform.startswith("linux"):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_names() -> list[str]:
    """The names of the CUDA devices that torch sees."""
    import torch

    return (
        [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
