"""Fine-pruning: channels that clean images use must stay, and those removed must stay removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bench.checking.use import access
from bench.contracts import tiny
from bench.diffusion.generator import Generator
from defenses._finetuning import some_clean
from defenses.finetune_pruning import FinetunePruning, _remove, hidden_readers

QUICK: dict[str, Any] = {
    "steps": 2,
    "batch_size": 4,
    "activation_batches": 1,
    "clean_share": 1.0,
}
DORMANT = 3


def silence(network: nn.Module) -> list[nn.Conv2d]:
    """Makes one hidden channel of every block dormant: its activation is SiLU(0) = 0."""
    readers = hidden_readers(network)
    for module in network.modules():
        if getattr(module, "conv2", None) in readers:
            with torch.no_grad():
                module.norm2.weight[DORMANT] = module.norm2.bias[DORMANT] = 0
    return readers


def test_every_residual_block_is_covered() -> None:
    from diffusers.models.resnet import ResnetBlock2D

    network = tiny.generator().unet
    blocks = [module for module in network.modules() if isinstance(module, ResnetBlock2D)]
    assert [block.conv2 for block in blocks] == hidden_readers(network) and len(blocks) > 4


def test_dormant_channels_go_and_no_others() -> None:
    """One of eight channels is dormant in every block, and one is asked for."""
    given = tiny.access(FinetunePruning())
    readers = silence(given.generator.unet)
    repaired = FinetunePruning(**QUICK, pruned_share=0.125).repair(given)
    for reader in readers:
        gone = (reader.weight == 0).all(dim=3).all(dim=2).all(dim=0)
        assert gone.nonzero().flatten().tolist() == [DORMANT]
        assert not reader._forward_pre_hooks
    assert repaired is given.generator


def test_removing_what_is_dormant_changes_nothing() -> None:
    model = tiny.generator()
    readers = silence(model.unet)
    x, timesteps = tiny.floats(2, 0), torch.tensor([5, 900])
    with torch.no_grad():
        before = model.predict_noise(x, timesteps)
        for reader in readers:
            _remove(reader, torch.tensor([DORMANT]))
        torch.testing.assert_close(model.predict_noise(x, timesteps), before)
        _remove(readers[0], torch.tensor([DORMANT + 1]))
        assert not torch.allclose(model.predict_noise(x, timesteps), before)


def test_activity_is_the_mean_absolute_activation() -> None:
    """By its definition: every activation is kept, then averaged."""
    defense = FinetunePruning(**QUICK)
    given, again = tiny.access(defense), tiny.access(defense)
    reader, kept = hidden_readers(again.generator.unet)[0], []
    reader.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0].clone()))
    readers = hidden_readers(given.generator.unet)
    activity = defense._activity(given, some_clean(given, 1.0), readers)
    defense._activity(again, some_clean(again, 1.0), hidden_readers(again.generator.unet))
    (values,) = kept
    slow = [float(values[:, channel].abs().double().mean()) for channel in range(8)]
    assert activity[0].tolist() == pytest.approx(slow)


def test_it_weakens_the_planted_backdoor(to_target: Callable[[Generator], float]) -> None:
    defense = FinetunePruning(steps=20, batch_size=16, learning_rate=1e-3, activation_batches=2)
    given = access(defense)
    before = to_target(given.generator)
    assert before < 0.01 < to_target(defense.repair(given))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="finetune_pruning: pruned_share must be in"):
        FinetunePruning(pruned_share=share)
