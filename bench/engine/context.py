"""The contract of a stage: what it declares (:class:`StageKind`) and what it is handed when it runs
(:class:`StageContext`).

A stage is a function ``run(params, inputs, out, context) -> dict[str, float]``: it reads the
finished folders in ``inputs`` (role -> path), writes its own results into the empty folder ``out``,
and returns extra cost figures such as ``generator_calls``. It must depend on nothing else, so that
its key determines its result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Progress = Callable[[int, int, str], None]
Params = dict[str, Any]
Inputs = dict[str, Path]
StageFunction = Callable[
    [dict[str, Any], dict[str, Path], Path, "StageContext"], "dict[str, float]"
]
AdmitFunction = Callable[[dict[str, Any], dict[str, Path], Path, "StageContext"], None]


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """One kind of stage. ``version``: raise it when the same inputs give another result on purpose;
    results of two versions never share a table. ``parts``: names of the parts that it uses of what
    it works on.

    ``charge``: the entry of a cell's cost that such a stage's time is added to. ``distributed``: on
    a slot with several GPUs, one process per GPU calls ``run``, which must divide the work itself
    (through accelerate); the first process's folder is kept. ``seconds``: a rough duration, used
    where no better estimate exists.

    ``admit(params, inputs, out, context)``: after a third party's plugin, in a process without
    it: raises where ``out``, a copy of what was left, is not what such a stage leaves, and may
    make anew what can be worked out without the plugin.
    """

    run: StageFunction
    parts: tuple[str, ...] = ()
    version: int = 1
    charge: str = "seconds"
    seconds: float | None = None
    distributed: bool = False
    admit: AdmitFunction | None = None


@dataclass(kw_only=True)
class StageContext:
    """What a stage may know besides its parameters and inputs. Nothing here may change a number,
    except ``device``.

    ``device``: ``cpu`` or ``cuda``, the one device this process uses; in a distributed stage the
    one accelerate has chosen. ``threads``: CPU threads, already set. ``progress(done, total,
    what)``: optional, cheap to call. ``charged``: the summed cost of the stages that the plan
    charges to this one.

    ``partial``: a folder where a long stage saves progress in case it is interrupted
    (:mod:`bench.stages.partial`); it may not exist yet. ``earlier_seconds``: the time spent on the
    progress found there, which the stage adds.
    """

    key: str
    device: str = "cpu"
    threads: int = 1
    progress: Progress = lambda done, total, what: None
    provenance: dict[str, Any] = field(default_factory=dict)
    charged: dict[str, float] = field(default_factory=dict)
    partial: Path | None = None
    earlier_seconds: float = 0.0
