"""What is judged, without a word of what it is."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts.judged import load_judged, save_judged
from bench.engine.context import Inputs, Params, StageContext


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes all rows of the sets as one, shuffled."""
    save_judged(load_judged(inputs["judged"]).pool(), out)
    return {}
