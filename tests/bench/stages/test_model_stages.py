"""A detector of models over three seeds, on the real testbed made tiny: one score a cell, and the
population beside them.
"""

from pathlib import Path

import pytest

from bench import registry
from bench.metrics.detection import area_interval, auroc

PLUGINS = Path(__file__).with_name("model_plugins.py")
SUITE = {
    "name": "tiny",
    "testbeds": [
        {
            "name": "digits-ddpm",
            "params": {
                "num_inference_steps": 2,
                "clean_samples": 4,
                "triggered_samples": 4,
                "precision": "float32",
            },
        }
    ],
    "attacks": [
        {"name": "none", "params": {"training_steps": 1, "learning_rate": 0.001}},
        {"name": "hasty", "params": {"training_steps": 1, "learning_rate": 0.002}},
        {"name": "hasty", "params": {"training_steps": 1, "learning_rate": 0.001}},
    ],
    "detectors": ["distance"],
    "seeds": [0, 1, 2],
}


@pytest.fixture(scope="module")
def walked(walk, tmp_path_factory):
    yield walk(SUITE, tmp_path_factory.mktemp("models"), 1, [PLUGINS])
    registry._in_use.clear()


@pytest.fixture(scope="module")
def records(walked):
    return [walked.record(cell) for cell in walked.plan.cells if cell.stage]


def score(records, attack, rate, seed):
    """Of the model that this attack left, in each of its cells."""
    scores = {
        record.metrics["model_score"].value
        for record in records
        if (record.attack.name, record.attack.params.get("learning_rate")) == (attack, rate)
        and record.kind == "model detector"
        and record.seed == seed
    }
    (one,) = scores
    return one


def test_each_cell_has_its_models_score(records):
    cells = [record for record in records if record.kind == "model detector"]
    assert len(cells) == 3 * (2 + 2), "the honest model is probed with both attacks"
    for record in cells:
        assert record.metrics["model_score"].n == 1
        assert record.metrics["model_score"].higher_is_better is None
        assert "auroc[models]" not in record.metrics
    assert [
        score(records, "hasty", 0.002, seed) > score(records, "none", 0.001, seed)
        for seed in SUITE["seeds"]
    ] == [True] * 3


def test_the_population_is_of_the_cells_scores(records):
    fast, slow, pooled = (record for record in records if record.kind == "population")
    honest = [score(records, "none", 0.001, seed) for seed in SUITE["seeds"]]
    for record, rates in ((fast, [0.002]), (slow, [0.001]), (pooled, [0.002, 0.001])):
        attacked = [
            score(records, "hasty", rate, seed) for seed in SUITE["seeds"] for rate in rates
        ]
        metric = record.metrics["auroc[models]"]
        values, truth = attacked + honest, [True] * len(attacked) + [False] * 3
        assert metric.value == pytest.approx(auroc(values, truth)) and metric.n == len(values)
        assert record.series["scores[attacked]"] == attacked
        assert record.series["scores[honest]"] == honest
        assert record.metrics["honest_models"].value == 3, "not once for each probe"
        assert (record.seeds, record.seed, record.cost.get("seconds")) == ((0, 1, 2), 0, None)
    # Farther away than any honest model, and what trains as they do just as far.
    assert fast.metrics["auroc[models]"].value == 1 and slow.metrics["auroc[models]"].value == 0.5
    assert (
        fast.metrics["auroc[models]"].ci_low
        == area_interval([1, 1, 1, 0, 0, 0], [True] * 3 + [False] * 3).low
    )
    assert "tpr_at_0_fpr[models]" in fast.absent


def test_the_key_of_each_stage_holds_what_it_ran(walked):
    for key in walked.plan.stages:
        assert walked.beyond_its_code(key) == set(), walked.plan.stages[key].describe()
