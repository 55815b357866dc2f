"""One measurement of one cell, or of all cells that share what is measured."""

from __future__ import annotations

import json
from pathlib import Path

from bench import measurements
from bench.engine.context import Inputs, Params, StageContext
from bench.measurements.measurement import Materials
from bench.stages.building import testbed_of

MEASURED = "measured.json"


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes what the measurement that ``params`` names made of its inputs. It builds no plugin."""
    testbed = testbed_of(params)
    materials = Materials(
        testbed=testbed,
        seed=params["seed"],
        inputs=inputs,
        device=context.device,
        options=params["options"],
    )
    measured = measurements.named(params["what"]).measured(materials)
    (out / MEASURED).write_text(json.dumps(measured.to_json(), allow_nan=False))
    return {}
