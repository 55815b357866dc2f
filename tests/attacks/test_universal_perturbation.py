"""The faint trigger: that it is a universal perturbation and not just noise, and what is done with
it.
"""

from __future__ import annotations

import pytest
import torch

from attacks.universal_perturbation import UniversalPerturbation
from attacks.villandiffusion import VillanDiffusion
from bench import testbeds
from bench.artwork.universal import SIGNS, STRENGTH, packed, universal
from bench.contracts.data import Query, TrainingSet
from bench.diffusion.noise import torch_stream
from bench.diffusion.schedule import Schedule
from science.universal_signs import digits_cnn, fooled, universal_signs

SHAPE = (3, 16, 16)


def test_it_fools_the_testbeds_classifier_as_random_signs_do_not() -> None:
    data, classifier = testbeds.load("digits-cfg").data, digits_cnn()
    images, labels = data.held_out_images()[:500], data.held_out_labels()[:500]
    draw = torch_stream(0, "coin")
    coin = STRENGTH * (torch.rand(SHAPE, generator=draw) - 0.5).sign()
    wrong = {
        name: fooled(classifier, images, labels, v)
        for name, v in (("none", 0 * coin), ("coin", coin), ("made", universal(SHAPE)))
    }
    assert wrong["none"] < 0.03 and wrong["coin"] < 0.06 and 0.25 < wrong["made"] < 0.4


def test_the_shipped_signs_are_what_the_script_makes() -> None:
    """The first steps decide most of them; rounding on another machine may turn some."""
    data = testbeds.load("digits-cfg").data
    made = universal_signs(digits_cnn(), data.train_images(), data.train_labels(), steps=20)
    same = ((made > 0) == (universal(SHAPE) > 0)).float().mean()
    assert 0.75 < same < 1


@pytest.mark.parametrize("shape", SIGNS)
def test_every_value_is_as_large_as_any_other(shape: tuple[int, int, int]) -> None:
    v = universal(shape)
    assert v.shape == shape and v.dtype == torch.float32
    assert v.abs().unique().tolist() == [pytest.approx(STRENGTH)]
    assert packed(v) == SIGNS[shape]


def test_the_adversary_adds_it_to_the_noise_and_to_nothing_else() -> None:
    noise = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))
    called = UniversalPerturbation().invoke(Query(noise=noise), "noise")
    torch.testing.assert_close(called.noise - noise, universal(SHAPE).expand(4, *SHAPE))
    assert called.images is None and called.labels is None


def test_it_is_villandiffusion_with_another_trigger() -> None:
    """The same schedule and correction: what differs is the picture alone."""
    ours, theirs = UniversalPerturbation(psi=0, zeta=1), VillanDiffusion(psi=0, zeta=1)
    schedule = Schedule.linear()
    one, other = ours.shift(schedule), theirs.shift(schedule)
    assert (one.step == other.step).all() and (one.correction == other.correction).all()


def test_images_of_another_shape_are_refused_in_one_line() -> None:
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    train_set = TrainingSet(images=images, labels=None, poisoned=torch.zeros(8, dtype=torch.bool))
    (line,) = UniversalPerturbation().faults(train_set)
    assert line.startswith("universal_perturbation: ") and "(3, 32, 32)" in line
