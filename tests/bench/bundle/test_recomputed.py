"""On testbeds with classes: what their measurements gave follows from the witnesses."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import testbeds
from bench.bundle.layout import cell_name
from bench.bundle.recomputed import differences, recompute, uncovered
from bench.bundle.witnesses import Witness, Witnesses, collect, files_of
from bench.measurements.measurement import Materials
from bench.results import read_source

ROOT = Path(__file__).resolve().parents[3]

SUITE = {
    "name": "tiny",
    "testbeds": [
        {
            "name": "digits-cfg",
            "params": {
                "clean_samples": 20,
                "class_samples": 12,
                "generated_samples": 30,
                "judged_images": 60,
                "test_images": 6,
                "num_inference_steps": 2,
                "precision": "float32",
            },
        }
    ],
    "attacks": [
        {"name": "none", "params": {"training_steps": 1}},
        {"name": "badnets", "params": {"training_steps": 1}},
    ],
    "defenses": ["clip_x0", {"name": "diffusion_classifier", "params": {"timesteps": 2}}],
    "detectors": [{"name": "strip", "params": {"overlays": 3}}],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def walked(walk, tmp_path_factory):
    return walk(SUITE, tmp_path_factory.mktemp("walk"), classifier_steps=5)


@pytest.mark.parametrize("column", ["none", "clip_x0", "diffusion_classifier", "strip"])
@pytest.mark.parametrize("row", ["badnets", "none"])
def test_numbers_of_classes_follow_from_their_witness(walked, row, column) -> None:
    cell = walked.cell(row, column, "badnets" if row == "none" else "")
    record = walked.record(cell)
    testbed = testbeds.build(cell.testbed.name, cell.testbed.params)
    with walked.small():
        witness = collect(Materials(testbed=testbed, seed=0, inputs=walked.inputs(cell)))
    kept = Witnesses(files_of({cell_name(record): witness})).of(record)
    assert kept is not None
    again = recompute(record, kept)
    assert differences(record, again) == []
    assert uncovered(record, again) == []
    wanted = {
        "none": {"g1", "asr[prompt]", "robust_asr[prompt]", "ta"},
        "clip_x0": {"g4", "asr[prompt]", "mismatch"},
        "diffusion_classifier": {"ta", "classifier_asr"},
        "strip": {"auroc[training set]", "tpr_at_5_fpr[training set]"},
    }
    assert wanted[column] <= set(again.metrics)


def test_numbers_of_populations_follow_from_their_scores() -> None:
    """Of every published one: a number that is left out here would refuse all who submit."""
    (run,) = read_source(ROOT / "results" / "model-detectors")
    populations = [record for _, record in run.records if record.seeds]
    assert len(populations) == 18
    for record in populations:
        again = recompute(record, Witness())
        assert differences(record, again) == [] and uncovered(record, again) == []
        assert {"auroc[models]", "tpr_at_0_fpr[models]"} <= set(again.metrics)
