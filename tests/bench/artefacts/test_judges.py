"""The judge of triggers apart from how well it is trained: what it must never say, whatever its
network says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.artefacts import judges
from bench.artefacts.judges import TriggerJudge
from bench.artwork import patterns
from bench.classification.classifier import Classifier
from bench.metrics import marks
from bench.testbeds.data.digits import digits_over_photographs


def _saying(yes: float) -> Classifier:
    """A network of constant margin."""
    head = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([0.0, yes])
    return Classifier(torch.nn.Identity(), head)


def test_a_picture_of_one_colour_carries_no_trigger() -> None:
    """A collapsed generator must not count as a success of the attack because a network takes flat
    colour for the trigger."""
    flat = torch.full((2, 3, 8, 8), 90, dtype=torch.uint8)
    picture = flat.clone()
    picture[:, :, 4:] = 200
    nothing = marks.MatchedFilter(marks.average_mark(flat, flat), flat)
    judge = TriggerJudge(
        network=_saying(9.0),
        mark=nothing,
        threshold=1.0,
        levels=[0.0] * 11,
        robust_threshold=1.0,
        mark_threshold=0.0,
        errors={},
    )
    assert judge.stamped(picture).all() and judge.robustly_stamped(picture).all()
    assert not judge.stamped(flat).any() and not judge.robustly_stamped(flat).any()


@pytest.fixture(scope="module")
def blind() -> TriggerJudge:
    """A network that never says yes beside a filter for the blended picture, its thresholds set as
    the stage sets them."""
    train, held_out = (
        torch.from_numpy(digits_over_photographs()[split][0].copy())
        for split in ("train", "held_out")
    )
    mark = marks.MatchedFilter(
        marks.average_mark(train, patterns.stamp("badnets2", train)), marks.shrink(train)
    )
    stamped = patterns.stamp("badnets2", held_out)
    calibration = judges.errors(_saying(-9.0), mark, held_out, stamped, np.random.default_rng(0))
    shares = {
        name: judges.Proportion(*counted) for name, counted in calibration.pop("errors").items()
    }
    return TriggerJudge(network=_saying(-9.0), mark=mark, errors=shares, **calibration)


def test_the_mark_alone_is_enough_for_the_robust_verdict_and_none_for_the_plain_one(
    blind: TriggerJudge,
) -> None:
    """In grey a network does not know the trigger; G1 to G4 stay the network's word."""
    plain = torch.from_numpy(digits_over_photographs()["held_out"][0][1::20].copy())
    grey = (
        patterns.stamp("badnets2", plain)
        .float()
        .mean(1, keepdim=True)
        .expand(-1, 3, -1, -1)
        .to(torch.uint8)
    )
    assert blind.robustly_stamped(grey).float().mean() >= 0.95
    assert not blind.stamped(grey).any()
    assert blind.errors["misses"].value == 1.0


def test_false_alarms_are_those_of_both_opinions_on_images_that_set_no_threshold(
    blind: TriggerJudge,
) -> None:
    held_out = torch.from_numpy(digits_over_photographs()["held_out"][0].copy())
    alarms = int(blind.robustly_stamped(held_out[1::2]).sum())
    assert blind.errors["robust_false_alarms"] == judges.Proportion(alarms, 720) and alarms <= 7
    assert int(blind.robustly_stamped(held_out[::2]).sum()) <= 0.0025 * 720


def test_a_judge_reads_back_as_it_was_written(tmp_path: Path) -> None:
    """``measure`` runs in another process than what set the thresholds, and must see the same."""
    images = torch.from_numpy(digits_over_photographs()["train"][0][:200].copy())
    stamped = patterns.stamp("badnets1", images)
    mark, real = marks.average_mark(images, stamped), marks.shrink(images)
    calibration = judges.errors(
        _saying(1.0), marks.MatchedFilter(mark, real), images, stamped, np.random.default_rng(0)
    )
    judges.write_judge(calibration, mark, real, tmp_path)
    judge = judges.read_judge(_saying(1.0), tmp_path)
    assert np.array_equal(
        judge.mark.scores(stamped), marks.MatchedFilter(mark, real).scores(stamped)
    )
    for name in ("threshold", "levels", "robust_threshold", "mark_threshold"):
        assert getattr(judge, name) == calibration[name]
    assert judge.errors["misses"] == judges.Proportion(*calibration["errors"]["misses"])


class _Brightness(torch.nn.Module):
    """Sees the trigger the better the brighter a picture is."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_every_view_has_a_level_of_its_own() -> None:
    """A view in which clean pictures look like triggers must not set the threshold for all
    others."""
    head = torch.nn.Linear(3, 2)
    head.weight.data, head.bias.data = torch.tensor([[0.0, 0, 0], [8.0, 0, 0]]), torch.zeros(2)
    network = Classifier(_Brightness(), head)
    clean = torch.from_numpy(digits_over_photographs()["held_out"][0][:200].copy())
    nothing = marks.MatchedFilter(marks.average_mark(clean, clean), clean)
    calibration = judges.errors(network, nothing, clean, clean, np.random.default_rng(0))
    for view, level in zip(judges.stamps.views(clean[::2]), calibration["levels"], strict=True):
        assert (judges.margins(network, view) > level).float().mean() <= 0.01
    assert len(set(calibration["levels"])) > 3
    assert (
        judges.robust_margins(network, clean[::2], calibration["levels"])
        > calibration["robust_threshold"]
    ).sum() == 0


def test_a_threshold_is_exceeded_by_no_more_than_its_share() -> None:
    values = np.arange(-50.0, 50.0)
    assert 0.04 <= (values > judges.exceeded_by(values, 0.05)).mean() <= 0.05
