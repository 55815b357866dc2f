"""ANP as a repair: masks that went the other way would prune what clean images need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.contracts import tiny
from bench.contracts.access import Access
from bench.diffusion.generator import Generator
from defenses.anp_repair import ANPRepair, Neurons, batch_loss, masked_layers, worst_case

QUICK: dict[str, Any] = {"steps": 2, "batch_size": 4, "clean_share": 1.0}


class Pointwise(nn.Module):
    """Answers x with x, its true noise at late timesteps, through channels 0 to 2, and with a
    multiple of its mean through channel 3, which only does harm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.conv_out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1, bias=False)
        with torch.no_grad():
            self.hidden.weight[:3] = torch.eye(3).reshape(3, 3, 1, 1)
            self.hidden.weight[3] = 1 / 3
            self.hidden.bias.zero_()
            self.conv_out.weight[:, :3] = torch.eye(3).reshape(3, 3, 1, 1)
            self.conv_out.weight[:, 3] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.conv_out(self.hidden(x))
        return answer


class Plain(Generator):
    """A generator of that network."""

    def predict_noise(self, x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        answer: Tensor = self.unet(x)
        return answer

    @property
    def classes(self) -> None:
        return None


def harmed() -> Access:
    model = Plain(Pointwise(), dict(tiny.SCHEDULE))  # type: ignore[arg-type]
    return Access(rng=np.random.default_rng(0), generator=model, clean_data=tiny.training_set(16))


def test_the_masked_layer_by_hand() -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(1, 2, 5, 5)
    plain, bias = layer(x).detach(), layer.bias.detach().reshape(3, 1, 1)  # type: ignore[union-attr]
    neurons = Neurons(layer)
    torch.testing.assert_close(layer(x), plain)
    column = torch.tensor([0.1, -0.2, 0.3]).reshape(3, 1, 1)
    with torch.no_grad():
        neurons.mask[:] = torch.tensor([1.0, 0.5, 0.0]).reshape(3, 1, 1)
    neurons.perturb(column, 2 * column)
    expected = (plain - bias) * (neurons.mask + column) + bias * (1 + 2 * column)
    torch.testing.assert_close(layer(x), expected)


def test_pruning_takes_weights_below_the_threshold_and_leaves_biases() -> None:
    layer = nn.Conv2d(2, 3, 3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    neurons = Neurons(layer)
    with torch.no_grad():
        neurons.mask[:] = torch.tensor([0.19, 0.2, 0.9]).reshape(3, 1, 1)
    neurons.prune(0.2)
    assert not layer.weight[0].any() and torch.equal(layer.weight[1:], before["weight"][1:])
    assert torch.equal(layer.bias, before["bias"]) and not layer._forward_hooks  # type: ignore[arg-type]


def test_every_convolution_but_the_last_is_masked() -> None:
    network = tiny.generator().unet
    every = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert masked_layers(network) == [one for one in every if one is not network.conv_out]
    assert len(every) > 10


def test_the_worst_case_is_worse_and_within_its_size() -> None:
    given = tiny.access(ANPRepair())
    given.generator.unet.requires_grad_(False)
    neurons = [Neurons(layer) for layer in masked_layers(given.generator.unet)]
    rows = {"images": given.clean_data.images}
    loss = batch_loss(given, rows, 4)
    calm = float(loss().detach())
    worst_case(neurons, loss, 0.01, given)
    assert float(loss().detach()) > calm
    for each in neurons:
        assert float(each.of_weight.abs().max()) <= 0.01
        assert float(each.of_bias.abs().max()) <= 0.01
        assert not each.of_weight.requires_grad
        each.rest()
    assert float(loss().detach()) == calm


def test_a_channel_that_does_harm_goes_and_the_others_stay() -> None:
    """The direction: masks fall where a perturbation, or the channel itself, raises the loss."""
    given = harmed()
    before = given.generator.unet.hidden.weight.clone()
    repaired = ANPRepair(
        steps=30, batch_size=16, clean_share=1.0, learning_rate=0.05, perturbation=0.1
    ).repair(given)
    hidden = repaired.unet.hidden
    assert not hidden.weight[3].any()
    assert torch.equal(hidden.weight[:3], before[:3])
    assert not hidden._forward_hooks


def test_what_falls_below_no_threshold_stays_as_it_was() -> None:
    given = tiny.access(ANPRepair())
    before = {name: value.clone() for name, value in given.generator.unet.state_dict().items()}
    repaired = ANPRepair(**QUICK, learning_rate=1e-6).repair(given)
    for name, value in repaired.unet.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("field", ["threshold", "perturbation", "steps", "learning_rate"])
def test_bad_parameters_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"anp_repair: {field} must be .*, got 0"):
        ANPRepair(**{field: 0})
