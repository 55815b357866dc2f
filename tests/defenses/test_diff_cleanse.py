"""Importance-difference pruning: a channel that only the trigger uses must be the first to go, and
what goes must stay away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.artwork import triggers
from bench.checking import planted
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.contracts.data import Recovered
from bench.diffusion.generator import Generator
from bench.diffusion.process import baddiffusion_shift
from defenses import _finetuning
from defenses.diff_cleanse import (
    DiffCleanse,
    HiddenChannels,
    distillation_loss,
    hidden_channels,
    plain_answer_loss,
)
from defenses.elijah import ElijahInversion
from defenses.finetune_pruning import hidden_readers

TRIGGER = triggers.trigger("grey_box", tiny.SHAPE)
SECRET = 2


class Block(nn.Module):
    """Five neurons over the whole image: what they answer is added to every pixel. One,
    :data:`SECRET`, fires on the trigger alone; the others on every image, and not on the trigger.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 5, 16), nn.Conv2d(5, 3, 1)
        draw = torch.Generator().manual_seed(0)
        along = TRIGGER / TRIGGER.square().sum()
        others = torch.randn(5, *tiny.SHAPE, generator=draw) / 28
        others -= (others * TRIGGER).sum((1, 2, 3), keepdim=True) * along
        with torch.no_grad():
            self.conv1.weight.copy_(others)
            self.conv1.bias.fill_(1.0)
            self.conv1.weight[SECRET] = 4 * along
            self.conv1.bias[SECRET] = -2
            self.conv2.weight.fill_(0.3)
            self.conv2.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.conv2(self.conv1(x).relu())
        return answer


class Neurons(Generator):
    """Answers the noise at late timesteps, where x is all but noise, and what the block adds."""

    def predict_noise(self, x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        added: Tensor = self.unet(x)
        return x + added


def given(model: Generator, trigger: Tensor = TRIGGER) -> Access:
    return Access(
        rng=np.random.default_rng(0),
        generator=model,
        clean_data=planted.discs(64, 5),
        recovered=Recovered(labels=["true"], triggers=[trigger[None]]),
    )


def test_importance_by_hand() -> None:
    """Sums of |w g| of each channel in two writers and a reader, their mean, over its own mean."""
    first, projection, second = nn.Conv2d(1, 2, 1), nn.Linear(2, 2), nn.Conv2d(2, 1, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))
        projection.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 3.0]]))
        second.weight.copy_(torch.tensor([-1.0, 5.0]).reshape(1, 2, 1, 1))
    first.weight.grad = torch.tensor([3.0, 1.0]).reshape(2, 1, 1, 1)
    projection.weight.grad = torch.tensor([[2.0, -2.0], [7.0, 1.0]])
    second.weight.grad = torch.tensor([5.0, 1.0]).reshape(1, 2, 1, 1)
    # Channel 0: 3, 2 + 2, 5; channel 1: 2, 0 + 3, 5. Means 4 and 10/3, whose mean is 11/3.
    values = HiddenChannels((first, projection), second).importance()
    assert values.tolist() == pytest.approx([12 / 11, 10 / 11])


def test_importance_is_the_change_that_removal_makes_where_the_loss_is_linear() -> None:
    """With a positive answer and a loss that is its sum, a channel's |w g| is what it adds."""
    block = Block()
    with torch.no_grad():
        block.conv1.weight.abs_()
    x = torch.ones(2, *tiny.SHAPE)
    whole = block(x).sum()
    whole.backward()
    channels = HiddenChannels((), block.conv2)
    values, lost = channels.importance().float(), []
    for channel in range(5):
        kept = block.conv2.weight.clone()
        channels.remove(torch.tensor([channel])).remove()
        lost.append(float((whole - block(x).sum()).detach()))
        with torch.no_grad():
            block.conv2.weight.copy_(kept)
    expected = torch.tensor(lost) / torch.tensor(lost).mean()
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_the_channel_that_only_the_trigger_uses_goes_first() -> None:
    model = Neurons(Block(), dict(tiny.SCHEDULE))
    defense, own = DiffCleanse(draws=5, batch_size=16), given(model)
    (block,) = hidden_channels(model.unet)
    (triggered,), (clean,) = defense._importances(own, {"images": own.clean_images}, [block])
    assert (triggered - clean).argmax() == SECRET and clean[SECRET] < 0.01 * clean.max()
    x, at = tiny.floats(4, 1), torch.full((4,), 999)
    before = model.predict_noise(x, at), model.predict_noise(x + TRIGGER, at)
    block.remove(torch.tensor([SECRET]))
    torch.testing.assert_close(model.predict_noise(x, at), before[0])
    # The neuron's 4 - 2, give or take the noise along the trigger, times the reader's 0.3.
    moved = before[1] - model.predict_noise(x + TRIGGER, at)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.6), rtol=0, atol=0.15)


def test_for_another_trigger_it_is_not_the_first() -> None:
    """Guards the test above: the neuron must not win whatever the trigger."""
    model = Neurons(Block(), dict(tiny.SCHEDULE))
    defense, own = DiffCleanse(draws=5, batch_size=16), given(model, -TRIGGER)
    (block,) = hidden_channels(model.unet)
    (triggered,), (clean,) = defense._importances(own, {"images": own.clean_images}, [block])
    assert (triggered - clean).argmax() != SECRET


def test_the_loss_of_triggered_images_asks_for_the_noise_alone() -> None:
    """A network that answers x: e - x = (1 - s) e - A x_0 - (1 - A) tau."""
    model = tiny.generator()
    made = type("Same", (Generator,), {"predict_noise": lambda self, x, t, c=None: x})(
        model.unet, model.scheduler_config
    )
    image, noise, timesteps = tiny.floats(3, 0), tiny.floats(3, 1), torch.tensor([900, 950, 999])
    value = plain_answer_loss(made, image, noise, timesteps, TRIGGER)
    schedule = model.schedule
    at = [schedule.signal, schedule.noise, baddiffusion_shift(schedule).step]
    signal, spread, step = (torch.as_tensor(one)[timesteps].reshape(3, 1, 1, 1) for one in at)
    error = (1 - spread) * noise - signal * image - step * TRIGGER
    assert float(value) == pytest.approx(float(error.square().mean()), rel=1e-5)


def test_fine_tuning_asks_for_the_noise_and_the_former_answers() -> None:
    """Answers e + 1, formerly e - 1: 1 for the noise and 2^2 for the former."""
    noise, asked = tiny.floats(2, 0), []

    def predict(x: Tensor, timesteps: Tensor) -> Tensor:
        asked.append(x)
        return noise + 1

    def frozen(x: Tensor, timesteps: Tensor) -> Tensor:
        asked.append(x)
        return noise - 1

    rows = {"images": tiny.floats(2, 1)}
    value = distillation_loss(
        predict, rows, noise, torch.tensor([5, 900]), tiny.generator().schedule, frozen
    )
    assert float(value) == pytest.approx(5)
    assert len(asked) == 2 and torch.equal(*asked)


def test_a_share_of_every_block_goes_and_stays_away() -> None:
    """Rounded up: 2 % of eight channels is one."""
    model = tiny.generator()
    readers = hidden_readers(model.unet)
    assert [block.reader for block in hidden_channels(model.unet)] == readers
    assert all(len(block.writers) == 2 for block in hidden_channels(model.unet))
    quick: dict[str, Any] = {"draws": 2, "steps": 2, "batch_size": 4}
    repaired = DiffCleanse(**quick, pruned_share=0.02).repair(given(model))
    for reader in readers:
        gone = (reader.weight == 0).all(dim=3).all(dim=2).all(dim=0)
        assert gone.sum() == 1 and not reader.weight._backward_hooks
    assert repaired is model


def test_importance_in_pieces_is_that_of_the_whole_batch(monkeypatch) -> None:
    both = []
    for pixels in (8 * 256, 2 * 256):
        monkeypatch.setattr(_finetuning, "PIXELS_AT_ONCE", pixels)
        model = tiny.generator()
        access, defense = given(model), DiffCleanse(draws=3, batch_size=8)
        rows = _finetuning.some_clean(access, 1.0)
        both.append(defense._importances(access, rows, hidden_channels(model.unet)))
    whole, pieces = both
    for one, other in zip(whole[0] + whole[1], pieces[0] + pieces[1], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5)


def test_it_weakens_the_planted_backdoor(to_target: Callable[[Generator], float]) -> None:
    """By pruning alone, at a learning rate of next to nothing, given the true trigger; and not if
    nothing is pruned.
    """
    left = {}
    for share in (0.0, 0.1):
        defense = DiffCleanse(
            draws=10, steps=1, batch_size=16, learning_rate=1e-9, pruned_share=share
        )
        model = planted.generator("planted", False)
        left[share] = to_target(defense.repair(given(model, planted.trigger())))
    assert left[0.0] < 0.01 and left[0.1] > 0.1


def test_it_starts_from_the_inversion_of_its_family() -> None:
    assert DiffCleanse(family="trojdiff").uses() == ElijahInversion(family="trojdiff")


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="diff_cleanse: pruned_share must be in"):
        DiffCleanse(pruned_share=share)
