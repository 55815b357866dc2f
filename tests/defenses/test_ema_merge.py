"""Merging with the base: a share that went the other way would keep the backdoor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bench.checking import planted
from bench.checking.use import access
from bench.diffusion.generator import Generator
from defenses.ema_merge import EMAMerge


def test_every_weight_lies_its_share_of_the_way_to_the_base() -> None:
    before, base = (planted.generator(which, False) for which in ("planted", "honest"))
    repaired = EMAMerge(base_share=0.25).repair(access(EMAMerge()))
    for name, weight in repaired.unet.state_dict().items():
        expected = 0.75 * before.unet.state_dict()[name] + 0.25 * base.unet.state_dict()[name]
        torch.testing.assert_close(weight, expected)


def test_the_backdoor_goes_as_the_base_comes(to_target: Callable[[Generator], float]) -> None:
    distances = [
        to_target(EMAMerge(base_share=share).repair(access(EMAMerge())))
        for share in (1e-6, 0.1, 0.5)
    ]
    assert distances[0] < 0.01 and distances == sorted(distances) and distances[-1] > 0.3


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_nothing_or_of_all_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="ema_merge: base_share must be in"):
        EMAMerge(base_share=share)
