"""Triggers drawn from a number: they must be triggers, wherever the number puts them."""

import pytest
import torch

from attacks.baddiffusion import BadDiffusion
from attacks.badnets import BadNets
from attacks.wanet import WaNet
from bench.artwork.drawn import LEVELS, drawn_patch


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 7, 16])
def test_a_patch_lies_in_the_image_and_is_not_of_one_colour(channels: int, size: int) -> None:
    for seed in range(50):
        colours, top, left = drawn_patch(seed, (channels, 16, 16), size)
        assert colours.shape == (channels, size, size) and set(colours.unique().tolist()) == set(
            LEVELS
        )
        assert 0 <= top <= 16 - size and 0 <= left <= 16 - size
        assert colours.flatten(1).std(dim=1).max() > 0


def test_numbers_give_other_patches_at_other_places() -> None:
    patches = [drawn_patch(seed, (3, 16, 16), 3) for seed in range(100)]
    assert len({(top, left) for _, top, left in patches}) > 50
    assert len({tuple(colours.flatten().tolist()) for colours, _, _ in patches}) > 95


@pytest.mark.parametrize("size", [2, 17])
def test_a_patch_that_does_not_fit_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="size must be from 3 to 16"):
        drawn_patch(0, (3, 16, 16), size)


def test_the_attacks_draw_their_triggers_from_the_number() -> None:
    """A sealed attack changes its trigger alone; the rest of what a defense meets is the
    suite's.
    """
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    sealed = BadNets(poison_rate=0.05).sealed(9)
    assert (sealed.poison_rate, sealed.pattern, sealed.pattern_seed) == (0.05, "drawn", 9)
    colours, top, left = drawn_patch(9, (3, 16, 16), 3)
    stamped = sealed.stamp(images)
    assert torch.equal(stamped[1, :, top : top + 3, left : left + 3].double(), colours)
    assert int((stamped[0] != 0).sum()) == colours.numel()
    assert torch.equal(WaNet().sealed(9).stamp(images), WaNet(field_seed=9).stamp(images))
    assert WaNet().sealed(9) != WaNet().sealed(10), "its field is its trigger"
    trigger = BadDiffusion(target="cat").sealed(9).trigger_image((3, 16, 16))
    assert int((trigger > -1).sum()) == 3 * 7 * 7 and trigger.max() == 1


@pytest.mark.parametrize(
    ("attack", "params", "message"),
    [
        (BadNets, {"pattern": "drawn"}, "pattern_seed must be given for drawn"),
        (BadNets, {"pattern_seed": 1}, "pattern_seed must be null for badnets1"),
        (BadDiffusion, {"trigger": "drawn"}, "trigger_seed must be given for drawn"),
        (BadDiffusion, {"trigger_seed": 1}, "trigger_seed must be null for grey_box"),
    ],
)
def test_a_number_is_needed_just_where_it_is_used(attack, params, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attack(**params)
