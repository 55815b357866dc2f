"""Weight noise: its strength must mean the same in every layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.checking.use import access
from bench.contracts import tiny
from bench.diffusion.generator import Generator
from defenses.weight_noise import WeightNoise


def test_every_kernel_gets_noise_of_its_own_deviation_and_nothing_else_moves() -> None:
    given = tiny.access(WeightNoise())
    with torch.no_grad():
        given.generator.unet.conv_in.weight.mul_(100)
    before = {
        name: value.detach().clone() for name, value in given.generator.unet.named_parameters()
    }
    repaired = WeightNoise(strength=0.3).repair(given)
    relative = []
    for name, weight in repaired.unet.named_parameters():
        moved = weight.detach() - before[name].detach()
        if weight.ndim == 1:
            assert not moved.any(), name
            continue
        relative.append(moved / before[name].std(correction=0))
        spread = float(relative[-1].std().detach())
        # Five standard errors of a deviation of so many numbers.
        assert spread == pytest.approx(0.3, rel=5 / (2 * weight.numel()) ** 0.5), name
    every = torch.cat([part.flatten() for part in relative])
    assert float(every.mean()) == pytest.approx(0, abs=0.3 * 5 / len(every) ** 0.5)


def test_other_seeds_give_other_noise() -> None:
    given = [tiny.access(WeightNoise(), seed=seed) for seed in (0, 1)]
    one, other = (WeightNoise().repair(each).unet.conv_in.weight for each in given)
    assert not torch.equal(one, other)


def test_more_noise_weakens_the_planted_backdoor_more(
    to_target: Callable[[Generator], float],
) -> None:
    distances = [
        to_target(WeightNoise(strength=strength).repair(access(WeightNoise())))
        for strength in (1e-6, 0.05, 0.2)
    ]
    assert distances[0] < 0.01 and distances == sorted(distances)


def test_no_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="weight_noise: strength must be positive, got 0.0"):
        WeightNoise(strength=0.0)
