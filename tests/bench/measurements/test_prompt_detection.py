"""Detection of prompts: closed forms, the control, and how few there are."""

import numpy as np
import pytest

from bench.artefacts.arrays import save_scores
from bench.measurements import prompt_detection
from bench.measurements.measurement import Materials, Situation
from bench.record import Flag


def measured(folder, **sets):
    save_scores(folder, {name: np.array(scores, np.float32) for name, scores in sets.items()})
    return prompt_detection.MEASUREMENT.measured(
        Materials(testbed=None, seed=0, inputs={"scores_prompts": folder})
    )


def test_the_adversarys_prompts_against_clean_ones_and_clean_against_clean(tmp_path):
    result = measured(
        tmp_path,
        reference=[0.0, 1.0, 2.0, 3.0],
        threshold=[0.5, 2.5, 1.5],
        clean=[0.0, 3.0, 1.0],
        word=[9.0, 8.0, 1.5],
    )
    auroc = result.metrics["auroc[word]"]
    assert auroc.value == pytest.approx(10 / 12) and auroc.n == 7 and auroc.higher_is_better
    # Two ties and two others of four below and above: (0.5 + 3.5 + 1.5) / 12.
    assert result.metrics["auroc[clean]"].value == pytest.approx(5.5 / 12)
    # Fixed beforehand at the highest of the third set, 2.5.
    assert result.metrics["tpr_fixed_threshold[word]"].value == pytest.approx(2 / 3)
    assert result.metrics["fpr_fixed_threshold[word]"].value == pytest.approx(1 / 4)
    text = "few prompts, 4 clean ones to tell from"
    assert result.flags == [Flag("few-prompts", "auroc", text)]


def test_many_prompts_are_no_few(tmp_path):
    clean = np.linspace(0, 1, 20)
    result = measured(tmp_path, reference=clean, threshold=clean, clean=clean, word=clean + 2)
    assert result.flags == [] and result.metrics["auroc[word]"].value == 1
    assert result.metrics["auroc[clean]"].value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("family", "roles", "reason"),
    [
        ("prompt detector", {"scores_prompts"}, ""),
        ("noise detector", {"scores_noise"}, "it judges the starting noise alone"),
        ("model detector", {"scores_model"}, "it judges the whole model alone"),
        ("control", set(), "only a detector has this number"),
    ],
)
def test_who_has_these_numbers(family, roles, reason):
    situation = Situation(testbed=None, family=family, roles=frozenset(roles))
    assert prompt_detection.MEASUREMENT.reason(situation) == reason
