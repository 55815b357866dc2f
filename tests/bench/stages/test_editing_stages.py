"""An edit of cross-attention that a word calls, on the real text-to-image testbed made tiny: a
class goal that is reached by a call, and a detector of prompts.
"""

from pathlib import Path

import pytest
import torch

from bench import registry, testbeds
from bench.artefacts.images import load_images
from bench.artefacts.rows import evenly
from bench.classification.classifier import predict
from bench.engine.worker import load_stages
from bench.metrics.uncertainty import proportion_interval
from bench.planner import make_plan
from bench.record import Run
from bench.suite import parse_suite
from leaderboard.board import boards
from leaderboard.ranking import rankings
from leaderboard.report import render

PLUGINS = Path(__file__).with_name("model_plugins.py")
SMALL = {
    "clean_samples": 10,
    "triggered_samples": 10,
    "class_samples": 2,
    "generated_samples": 2,
    "judged_images": 10,
    "test_images": 4,
    "num_inference_steps": 8,
    "precision": "float32",
}
SUITE = {
    "name": "tiny",
    "testbeds": [{"name": "digits-sd", "params": SMALL}],
    "attacks": [{"name": "none", "params": {"training_steps": 1}}, "edit"],
    "detectors": ["wordy"],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def walked(walk, tmp_path_factory):
    yield walk(SUITE, tmp_path_factory.mktemp("editing"), 1, [PLUGINS])
    registry._in_use.clear()


@pytest.fixture
def edited():
    registry.use([PLUGINS])
    yield type(registry.build("attacks", "edit")).implant.__globals__["edited"]
    registry._in_use.clear()


def test_the_closed_form_keeps_the_weights_or_moves_them(edited):
    """With nothing but its own strength the old weights; without, W' c = W d."""
    draw = torch.Generator().manual_seed(0)
    weight, c, d = (torch.randn(rows, 8, generator=draw, dtype=torch.double) for rows in (5, 6, 6))
    torch.testing.assert_close(edited(weight, c, d, 1e12), weight)
    torch.testing.assert_close(edited(weight, c, c, 0.3), weight)
    torch.testing.assert_close(edited(weight, c, d, 1e-12) @ c.T, weight @ d.T)


def test_the_word_reaches_the_class_and_the_honest_model_does_not(walked):
    """Of ten calls nine were asked for another class than the adversary's."""
    backdoored = walked.record(walked.cell("edit", "none"))
    honest = walked.record(walked.cell("none", "none", "edit"))
    called, plain = (one.metrics["asr_class[word]"] for one in (backdoored, honest))
    assert called.n == plain.n == 9
    assert called.value > 0.7 and plain.value < 0.3, "what the edit is for"
    assert called.higher_is_better is False and called.unit == "share"
    assert (called.ci_low, called.ci_high) == proportion_interval(called.value * 9, 9)
    # Nobody calls: the backdoor sleeps.
    assert backdoored.metrics["asr_class[clean]"].value < 0.3
    assert sum(backdoored.series["outcomes[asr_class[word]]"]) == called.value * 9


def test_what_is_counted_is_what_the_evaluation_classifier_sees(walked):
    cell = walked.cell("edit", "none")
    testbed = testbeds.build("digits-sd", SMALL)
    data, judge = testbed.data, testbed.evaluation_classifier()
    drawn = load_images(walked.inputs(cell)["call:word"])
    seen = predict(judge, drawn)
    others = evenly(testbed, testbed.counts.triggered_samples) != 0
    outcomes = walked.record(cell).series["outcomes[asr_class[word]]"]
    assert outcomes == (seen[others] == 0).double().tolist()
    real = data.held_out_labels() == 0
    seen = predict(judge, data.held_out_images()[real])
    ceiling = walked.record(cell).metrics["asr_class_ceiling"]
    assert ceiling.value == pytest.approx(float((seen == 0).float().mean()))
    assert ceiling.n == int(real.sum()) and ceiling.effective_n < ceiling.n, "crops of one digit"


def test_without_an_image_target_the_rest_says_why(walked):
    absent = walked.record(walked.cell("edit", "none")).absent
    assert absent["asr[*]"] == absent["mse[*]"] == "this attack aims at no image"
    detector = walked.record(walked.cell("edit", "wordy")).absent
    assert detector["asr_class[*]"] == "a detector changes no sample"
    assert detector["auroc[training set]"] == "it judges prompts alone"


def test_a_detector_of_prompts_finds_the_word_and_nothing_in_clean_ones(walked):
    record = walked.record(walked.cell("edit", "wordy"))
    auroc, control = (record.metrics[f"auroc[{what}]"] for what in ("word", "clean"))
    assert (auroc.value, control.value) == (1, 0.5)
    # Ten prompts in three parts: few, and said so.
    assert (auroc.n, record.metrics["tpr_fixed_threshold[word]"].n) == (7, 3)
    assert auroc.ci_low < 0.5, "three prompts against four prove nothing"
    assert "few-prompts" in [flag.code for flag in record.flags]
    assert not {"auroc[*]", "auroc[clean]"} & set(record.absent)


def test_the_key_of_each_stage_holds_what_it_ran(walked):
    for key in walked.plan.stages:
        assert walked.beyond_its_code(key) == set(), walked.plan.stages[key].describe()


def test_an_aim_that_nothing_judges_has_a_reason(walked):
    """Decided when the suite is planned: nothing is drawn for it."""
    plugins = registry.use([PLUGINS])
    suite = SUITE | {"attacks": ["style", "elsewhere", "edit"]}
    plan = make_plan(
        parse_suite(suite, plugins, "tiny.yaml"), plugins, load_stages("bench.stages.table")
    )
    reasons = {
        cell.attack.name: plan.stages[cell.stage].params["absent"].get("asr_class[*]")
        for cell in plan.cells
        if cell.defense.name == "none" and cell.kind == "control" and not cell.probe
    }
    assert reasons == {
        "style": "this attack aims at a style, which no testbed has a judge of",
        "elsewhere": "this attack aims at a concept that is no class of this testbed: "
        "nothing judges it",
        "edit": None,
    }


@pytest.fixture(scope="module")
def board_run(walked):
    records = [
        (walked.folders[cell.stage], walked.record(cell))
        for cell in walked.plan.cells
        if cell.stage
    ]
    return Run(
        suite="tiny",
        description="",
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:01+00:00",
        counts={"ok": len(records)},
        records=records,
    )


def test_the_board_ranks_by_the_class_that_was_reached(board_run, walked):
    (board,) = boards([board_run])
    (ranking,) = rankings(board)
    called = walked.record(walked.cell("edit", "none")).metrics["asr_class[word]"]
    assert ranking.lines[0].way.metric == "asr_class[word]"
    assert ranking.without.mean == called.value
    assert (
        ranking.honest
        == walked.record(walked.cell("none", "none", "edit")).metrics["asr_class[word]"].value
    )


def test_the_page_of_real_records(board_run):
    page = render([board_run], "board")
    for text in ("asr_class[word]", "asr_class_ceiling", "auroc[word]", "few prompts"):
        assert text in page, text
