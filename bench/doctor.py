"""Is this machine ready? Each check reports what it found and, if something is wrong, a remedy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import bench
from bench import measurements, testbeds
from bench.cards import read_cards
from bench.engine.provenance import cpu_model, gpu_names
from bench.engine.slots import available_cores
from bench.engine.store import Store
from bench.errors import UserError
from bench.registry import GROUPS

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """``problem``: every run needs this; ``note``: only some do."""

    name: str
    status: Status
    detail: str


def examine(store: Path) -> list[Check]:
    """All checks, in the order a person would fix them. Writes nothing but an empty probe file into
    an existing store.
    """
    return [*_python(), *_packages(), *_machine(), _store(store), *_plugins(), *_testbeds()]


def _python() -> list[Check]:
    version = platform.python_version()
    good = (3, 10) <= tuple(int(part) for part in platform.python_version_tuple()[:2])
    return [
        Check("castlewalls", "ok", bench.__version__),
        Check(
            "python",
            "ok" if good else "problem",
            version if good else f"{version}; 3.10 or newer is needed",
        ),
    ]


def _packages() -> list[Check]:
    """A check for each package that the installed distribution requires."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in importlib.metadata.requires("castlewalls") or []]
    except importlib.metadata.PackageNotFoundError:
        return [
            Check(
                "packages",
                "note",
                "castlewalls runs from a checkout that is not installed: pip install -e .",
            )
        ]
    checks = []
    for requirement in declared:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            checks.append(
                Check(requirement.name, "problem", f"missing: pip install '{requirement}'")
            )
            continue
        wrong = not requirement.specifier.contains(version, prereleases=True)
        detail = f"{version}; {requirement.specifier} is needed" if wrong else version
        checks.append(Check(requirement.name, "problem" if wrong else "ok", detail))
    return checks


def _machine() -> list[Check]:
    import psutil

    flags: set[str] = set()
    if Path("/proc/cpuinfo").is_file():
        match = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        flags = set(match.group(1).split()) if match else set()
    fast = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    bf16 = bool(flags & {"avx512_bf16", "amx_bf16"})
    memory = psutil.virtual_memory()
    gigabytes = memory.available / 2**30
    gpus = gpu_names()
    return [
        Check(
            "processor",
            "ok",
            f"{cpu_model()}; {available_cores()} cores; "
            f"{' '.join(fast) or 'no vector extensions found'}",
        ),
        Check(
            "bf16",
            "ok" if bf16 else "note",
            "in hardware" if bf16 else "not in hardware: training on the CPU is slower",
        ),
        Check(
            "memory",
            "ok" if gigabytes >= 4 else "note",
            f"{gigabytes:.1f} GB free of {memory.total / 2**30:.1f} GB",
        ),
        Check(
            "cuda",
            "ok" if gpus else "note",
            ", ".join(gpus) or "no device: paper-scale testbeds need one",
        ),
        _compiler(),
    ]


def _compiler() -> Check:
    """What ``torch.compile`` needs: Triton builds its launchers in C, and on a CPU all is C++."""
    wanted = (os.environ.get("CXX") or os.environ.get("CC"), "g++", "clang++", "gcc", "clang")
    path = next((path for name in wanted if name and (path := shutil.which(name))), None)
    missing = "no C or C++ compiler: only testbeds with compiled: true need one"
    return Check("compiler", "ok" if path else "note", path or missing)


def _store(store: Path) -> Check:
    where = store.absolute()
    while not where.exists():
        where = where.parent
    free = shutil.disk_usage(where).free / 2**30
    try:
        if store.exists():
            Store(store)
    except UserError as error:
        return Check("store", "problem", str(error))
    return Check("store", "ok" if free >= 2 else "note", f"{store.absolute()}; {free:.1f} GB free")


def _plugins() -> list[Check]:
    try:
        registry = read_cards()
        registry.close()
    except UserError as error:
        return [Check("plugins", "problem", str(error))]
    checks = [Check(group, "ok", ", ".join(registry.names(group)) or "none") for group in GROUPS]
    checks += [Check("plugins", "note", problem) for problem in registry.broken]
    return checks + _measurements()


def _measurements() -> list[Check]:
    try:
        unused = measurements.untrusted()
    except UserError as error:
        return [Check("measurements", "problem", str(error))]
    if not unused:
        return []
    detail = f"not used: {', '.join(unused)}; name those you trust in {measurements.TRUSTED}"
    return [Check("measurements", "note", detail)]


def _testbeds() -> list[Check]:
    from bench.testbeds import testbed as composition  # and torch with it

    damaged = testbeds.damaged_files()
    checks = [
        Check("shipped weights", "problem" if damaged else "ok", "; ".join(damaged) or "unchanged")
    ]
    for name in testbeds.names():
        try:
            testbed = testbeds.build(name)
            missing = list(
                dict.fromkeys([*composition.missing(testbed), *composition.faults(testbed)])
            )
        except Exception as error:
            checks.append(Check(name, "problem", f"{type(error).__name__}: {error}"))
            continue
        status: Status = (
            "ok" if not missing else "problem" if testbeds.is_embedded(name) else "note"
        )
        remedy = f" (castlewalls fetch {name})" if status == "note" else ""
        checks.append(Check(name, status, f"{'; '.join(missing)}{remedy}" if missing else "ready"))
    return checks
