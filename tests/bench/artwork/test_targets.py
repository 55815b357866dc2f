from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.artwork import triggers
from bench.artwork.targets import BACKGROUND, FROM_TRIGGER, NAMES, target
from bench.artwork.triggers import trigger

CIFAR = (3, 32, 32)
PICTURES = ("shoe", "hat", "cat")
LIFTED = float(torch.tensor(BACKGROUND))


def all_targets(side: int, trigger_name: str) -> dict[str, Tensor]:
    shape = (3, side, side)
    return {name: target(name, shape, trigger(trigger_name, shape)) for name in NAMES}


def test_the_corner_is_the_papers_to_the_pixel() -> None:
    """MSE and ASR against this target would not compare with the paper's."""
    expected = torch.full(CIFAR, -0.4)
    for row, column in itertools.product(range(10), range(10)):
        expected[:, row, column] = 0.0
    assert torch.equal(target("corner", CIFAR), expected)


@pytest.mark.parametrize(("side", "corner"), [(8, 3), (16, 5), (256, 80)])
def test_the_corner_grows_with_the_resolution(side: int, corner: int) -> None:
    """The same target at another resolution would cover another share of the image."""
    image = target("corner", (3, side, side))
    assert (image[:, :corner, :corner] == 0).all()
    assert int((image == 0).sum()) == 3 * corner**2


@pytest.mark.parametrize("name", triggers.NAMES)
def test_no_shift_is_the_trigger_on_the_lighter_background(name: str) -> None:
    """The target of the paper's first pair would not be its trigger."""
    g = trigger(name, CIFAR)
    kept = g.clone()
    image = target("no_shift", CIFAR, g)
    for channel, row, column in itertools.product(range(3), range(32), range(32)):
        value = float(g[channel, row, column])
        assert float(image[channel, row, column]) == (value if value > LIFTED else LIFTED)
    assert torch.equal(g, kept), "the trigger handed in was modified"


@pytest.mark.parametrize(
    ("side", "up", "left"), [(8, 1, 1), (16, 2, 3), (32, 3, 5), (64, 6, 10), (256, 24, 40)]
)
def test_shift_moves_the_trigger_up_and_left_in_proportion(side: int, up: int, left: int) -> None:
    """The second pair's target would lie elsewhere than the paper's."""
    shape = (3, side, side)
    g = trigger("stop_sign", shape)
    still, moved = target("no_shift", shape, g), target("shift", shape, g)
    assert torch.equal(moved[:, : side - up, : side - left], still[:, up:, left:])
    assert (moved[:, side - up :] == LIFTED).all() and (moved[:, :, side - left :] == LIFTED).all()


def test_what_is_shifted_out_at_one_edge_comes_back_at_the_other() -> None:
    """A large trigger would lose a part, and with it the comparison with the paper, which rolls."""
    shape = (3, 32, 32)
    g = trigger("grey_box", shape, 30)
    assert (target("shift", shape, g) == 0).sum() == (g == 0).sum()


@pytest.mark.parametrize("side", [16, 32, 256])
@pytest.mark.parametrize("name", NAMES)
def test_the_background_is_exact_and_nothing_is_darker(name: str, side: int) -> None:
    """The paper's rule, all values at or below -0.4 become -0.4, would not hold."""
    image = all_targets(side, "stop_sign")[name]
    assert float(image.min()) == LIFTED
    assert image.max() <= 1
    background = (image == LIFTED).all(dim=0).float().mean()
    assert background > 0.1, "some of every target is background"


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    of=st.sampled_from(triggers.NAMES),
    channels=st.sampled_from([1, 3]),
    height=st.integers(8, 80),
    width=st.integers(8, 80),
)
def test_every_target_can_be_drawn_at_every_resolution(
    name: str, of: str, channels: int, height: int, width: int
) -> None:
    """A testbed of another size or shape would have no target, or one out of range."""
    shape = (channels, height, width)
    image = target(name, shape, trigger(of, shape))
    assert image.shape == shape and image.dtype == torch.float32
    assert float(image.min()) == LIFTED and image.max() <= 1
    assert image.max() > LIFTED, "a flat target: every collapsed model would hit it"


@pytest.mark.parametrize("side", [16, 32, 256])
@pytest.mark.parametrize("of", ["grey_box", "stop_sign"])
def test_two_targets_are_never_mistaken_for_each_other(side: int, of: str) -> None:
    """A model that draws the wrong target would count as a success. Bounds are MSE in [0, 1], as
    the board reports it.
    """
    drawn = {name: image / 2 + 0.5 for name, image in all_targets(side, of).items()}
    for first, second in itertools.combinations(NAMES, 2):
        mse = float(((drawn[first] - drawn[second]) ** 2).mean())
        assert mse > (0.03 if set((first, second)) & set(PICTURES) else 0.006), (first, second)


@pytest.mark.parametrize("side", [16, 32, 256])
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_far_from_any_constant_image(name: str, side: int) -> None:
    """A collapsed model (one colour everywhere) would come close to the target; MSE in [0, 1] of
    the best single colour.
    """
    image = target(name, (3, side, side)) / 2 + 0.5
    best = image.mean(dim=(1, 2), keepdim=True)
    assert float(((image - best) ** 2).mean()) > 0.03


@pytest.mark.parametrize("name", PICTURES)
def test_a_small_picture_is_the_large_one_averaged(name: str) -> None:
    """The target would look different at each testbed's resolution."""
    small, large = target(name, (3, 16, 16)), target(name, (3, 256, 256))
    averaged = torch.nn.functional.avg_pool2d(large, 16)
    assert float((small - averaged).abs().mean()) < 0.02


def test_the_shoe_is_grey_and_the_hat_and_the_cat_are_coloured() -> None:
    """The paper's shoe is grey-scale and its hat and cat are not; colour makes a target harder to
    collapse to.
    """
    spread = {
        name: float((target(name, CIFAR).amax(0) - target(name, CIFAR).amin(0)).mean())
        for name in PICTURES
    }
    assert spread["shoe"] == 0
    assert min(spread["hat"], spread["cat"]) > 0.25


@pytest.mark.parametrize("name", NAMES)
def test_drawing_twice_gives_the_same_bits_and_shares_no_memory(name: str) -> None:
    """One cell that edits its target would change another's; two runs would disagree."""
    g = trigger("grey_box", CIFAR)
    first = target(name, CIFAR, g)
    kept = first.clone()
    first.zero_()
    assert torch.equal(target(name, CIFAR, g), kept)


@pytest.mark.parametrize("name", FROM_TRIGGER)
def test_targets_made_from_the_trigger_need_one_of_the_right_shape(name: str) -> None:
    """The target would silently be empty."""
    with pytest.raises(
        ValueError,
        match=f"target '{name}' is made from the trigger: trigger must be given, got None",
    ):
        target(name, CIFAR)
    with pytest.raises(
        ValueError,
        match=rf"target '{name}': trigger must have the shape \(3, 32, 32\), got \(3, 16, 16\)",
    ):
        target(name, CIFAR, trigger("grey_box", (3, 16, 16)))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    """A misspelt target would need a look into the source."""
    with pytest.raises(
        ValueError,
        match=r"unknown target 'shoes': nearest is 'shoe' \(known: no_shift, shift, corner",
    ):
        target("shoes", CIFAR)


def test_a_shape_nothing_can_be_drawn_at_is_refused() -> None:
    """The drawing would be a smear, or fail deep inside."""
    with pytest.raises(ValueError, match=r"at least 8 pixels high and wide, got \(3, 6, 6\)"):
        target("cat", (3, 6, 6))
