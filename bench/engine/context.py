"""The contract of a stage: what it declares (:class:`StageKind`) and what it is handed when it runs (:class:`StageContext`).

A stage is a function ``run(params, inputs, out, context) -> dict[str, float]``: it reads the finished folders in ``inputs``
(role -> path), writes its own results into the empty folder ``out``, and returns extra cost figures such as
``generator_calls``. It must depend on nothing else, so that its key says all there is to say about its result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

Progress = Callable[[int, int, str], None]
StageFunction = Callable[[dict[str, Any], dict[str, Path], Path, "StageContext"], "dict[str, float]"]


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """One kind of stage. ``code``: the modules or packages (``bench.diffusion``) whose code decides the result;
    ``packages``: installed packages whose version decides it, beside torch, diffusers and numpy.

    ``timeout_seconds``, ``retries``: used where neither the suite nor the command line says. ``distributed``: on a slot with
    several GPUs, every one of as many processes calls ``run``, which must share the work itself (through accelerate); the
    first one's folder is kept.
    """

    run: StageFunction
    code: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retries: int = 0
    distributed: bool = False


@dataclass(kw_only=True)
class StageContext:
    """What a stage may know beside its parameters and inputs. Nothing here may change a number, except ``device``.

    ``device``: ``cpu``, or ``cuda``: the one device this process uses, in a distributed stage once accelerate has chosen it.
    ``threads``: CPU threads, set already. ``progress(done, total, what)``: optional, cheap to call. ``input_costs``: for
    ``measure``, the summed cost of the stages this cell alone needed (``seconds``, ``peak_memory_bytes``, ``generator_calls``,
    ``attack_seconds``), without the measuring itself.

    ``partial``: a folder for what a long stage keeps in case it is cut short (:mod:`bench.engine.partial`); it may not exist yet.
    ``earlier_seconds``: what the work took that was found there, which the stage adds.
    """

    key: str
    device: str = "cpu"
    threads: int = 1
    progress: Progress = lambda done, total, what: None
    protocol: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    input_costs: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=monotonic)
    partial: Path | None = None
    earlier_seconds: float = 0.0

    def cost(self) -> dict[str, float]:
        """The cost of a cell so far, for its record: :attr:`input_costs` and the measuring up to now."""
        return self.input_costs | {"seconds": self.input_costs.get("seconds", 0.0) + monotonic() - self.started}
