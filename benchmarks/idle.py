"""A table of stages that do nothing, for :mod:`benchmarks.growth`: what is left is the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.engine.context import StageContext, StageKind


def idle(
    params: dict[str, Any], inputs: dict[str, Path], out: Path, context: StageContext
) -> dict[str, float]:
    """Writes one byte."""
    (out / "done").write_bytes(b"1")
    return {}


STAGES = {"idle": StageKind(run=idle)}
