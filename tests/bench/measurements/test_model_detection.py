"""A population of models: closed forms, directions, and what is too few."""

import numpy as np
import pytest

from bench.artefacts import doubts
from bench.artefacts.arrays import save_scores
from bench.measurements import model_detection, model_score
from bench.measurements.measurement import Materials, Situation
from bench.metrics.uncertainty import proportion_interval
from bench.record import Flag, Metric


def measured(folder, attacked, honest):
    """``attacked``, ``honest``: by plugin, seed -> score."""
    inputs = {}
    for side, plugins in (("attacked", attacked), ("honest", honest)):
        for plugin, scores in enumerate(plugins):
            for seed, score in scores.items():
                role = f"{side}:{plugin}:{seed}"
                inputs[role] = folder / role.replace(":", "-")
                inputs[role].mkdir()
                save_scores(inputs[role], {"model": np.array([score], np.float32)})
    return model_detection.MEASUREMENT.measured(Materials(testbed=None, seed=0, inputs=inputs))


def test_two_of_three_pairs_in_order(tmp_path):
    """Of nine pairs one backdoored model loses to two honest ones."""
    result = measured(tmp_path, [{0: 5.0, 1: 6.0, 2: 2.0}], [{0: 1.0, 1: 3.0, 2: 4.0}])
    auroc = result.metrics["auroc[models]"]
    assert auroc.value == pytest.approx(7 / 9) and auroc.n == 6
    assert auroc.higher_is_better is True and auroc.ci_low < 7 / 9 < auroc.ci_high
    assert auroc.ci_low < 0.5, "six models cannot prove that"
    assert result.metrics["backdoored_models"].value == result.metrics["honest_models"].value == 3
    assert result.series["scores[attacked]"] == [5, 6, 2]
    assert "says little of their rate" in result.absent["tpr_at_0_fpr[models]"]


def test_higher_is_more_suspicious(tmp_path):
    one = measured(tmp_path, [{0: -1.0, 1: -2.0, 2: -3.0}], [{0: 1.0, 1: 2.0, 2: 3.0}])
    assert one.metrics["auroc[models]"].value == 0, "a detector with the direction wrong"


def test_three_that_are_all_told_apart_prove_little_and_five_enough(tmp_path):
    for count, proves in ((3, False), (5, True)):
        folder = tmp_path / str(count)
        folder.mkdir()
        seeds = range(count)
        result = measured(folder, [{s: 10.0 + s for s in seeds}], [{s: float(s) for s in seeds}])
        auroc = result.metrics["auroc[models]"]
        assert (auroc.value, auroc.ci_high, auroc.effective_n) == (1, 1, count)
        assert auroc.ci_low == proportion_interval(count, count)[0]
        assert (auroc.ci_low > 0.5) is proves


def test_the_share_above_every_honest_one_needs_five_of_them(tmp_path):
    honest = {seed: float(seed) for seed in range(5)}
    result = measured(tmp_path, [{0: 4.0, 1: 4.1, 2: 9.0}], [honest])
    share = result.metrics["tpr_at_0_fpr[models]"]
    # As high as the highest is not above it.
    assert share.value == pytest.approx(2 / 3) and share.n == 3
    assert share.higher_is_better is True and "tpr_at_0_fpr[models]" not in result.absent


def test_attacks_of_one_seed_are_one_draw(tmp_path):
    """Ten attacks that all do what their seed does are no more than its three seeds."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    of_seeds, honest = {0: 2.5, 1: 0.5, 2: 1.5}, {0: 0.0, 1: 1.0, 2: 2.0}
    one = measured(tmp_path / "a", [of_seeds], [honest]).metrics["auroc[models]"]
    ten = measured(tmp_path / "b", [of_seeds] * 10, [honest]).metrics["auroc[models]"]
    assert (one.n, ten.n) == (6, 33) and ten.value == pytest.approx(one.value)
    assert (ten.ci_low, ten.ci_high) == pytest.approx((one.ci_low, one.ci_high))


def test_models_of_one_score_are_flagged_and_so_are_their_detectors_doubts(tmp_path):
    result = measured(tmp_path, [{0: 1.0, 1: 1.0, 2: 1.0}], [{0: 0.0, 1: 1.0, 2: 2.0}])
    text = "constant scores, all 3 backdoored models have one"
    assert result.flags == [Flag("constant-scores", "auroc[models]", text)]
    doubt = Flag("not-repeatable", "", "not repeatable")
    doubts.save(tmp_path / "honest-0-1", [doubt])
    inputs = {path.name.replace("-", ":"): path for path in tmp_path.iterdir()}
    again = model_detection.MEASUREMENT.measured(Materials(testbed=None, seed=0, inputs=inputs))
    assert again.flags[0] == doubt


@pytest.mark.parametrize(
    ("attacked", "honest", "reason"), [(3, 3, ""), (2, 9, "got 2 and 9"), (9, 2, "got 9 and 2")]
)
def test_fewer_than_three_of_either_side_are_no_population(attacked, honest, reason):
    roles = [f"attacked:0:{seed}" for seed in range(attacked)]
    roles += [f"honest:0:{seed}" for seed in range(honest)]
    situation = Situation(
        testbed=None, family="population", scope="population", roles=frozenset(roles)
    )
    actual = model_detection.MEASUREMENT.reason(situation)
    assert reason in actual and bool(reason) is bool(actual)


def test_one_models_score_is_neither_good_nor_bad(tmp_path):
    save_scores(tmp_path, {"model": np.array([-2.5], np.float32)})
    materials = Materials(testbed=None, seed=0, inputs={"scores_model": tmp_path})
    assert model_score.MEASUREMENT.measured(materials).metrics == {
        "model_score": Metric(value=-2.5, n=1)
    }
