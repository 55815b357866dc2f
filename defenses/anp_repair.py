"""Adversarial neuron pruning as a repair: masks learnt against the worst perturbation decide which
channels go. In turn the weights are disturbed so that the loss on clean images grows, and each
channel's mask learns to lower it. Channels whose mask falls below a threshold lose their weights.

Wu and Wang: "Adversarial Neuron Pruning Purifies Backdoored Deep Models" (NeurIPS 2021, arXiv
2110.14430, section 4). Backdoored neurons are those by which a small perturbation of the weights
does most harm. Every neuron has a mask m, its weights w and bias b count as

    (m + d) w,   (1 + x) b,      |d|, |x| <= eps

and m, from 1, learns by SGD, kept in [0, 1], to minimise

    alpha L(m) + (1 - alpha) max over d, x of L(m, d, x)

on a few clean images; d and x take a random start and one step along the gradient's sign. Then
neurons whose mask fell below ``threshold`` lose their weights (their biases stay), and the others
are as they were. The defense ``anp`` is the first paper's use of the idea, an inversion with
absolute perturbations and no masks, and repairs nothing; this is the original, which that paper did
not try.

Deviations, since a denoising U-Net is no classifier:

- A neuron is an output channel of any convolution but the network's last, whose channels are the
  image's (the paper masks batch normalisation and leaves the last layer alone).
- L is DDPM's loss on clean images (Ho et al. 2020, arXiv 2006.11239, eq. 14), an order of magnitude
  below a cross-entropy. Its gradients are smaller, so the paper's threshold of 0.2 after its 2000
  steps need not be reached; a repair that prunes nothing is flagged as changing nothing.
- The step along the sign is eps, and d, x are then kept within eps, as the paper's constraint says;
  the released code lets them reach twice that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.process import VariancePreserving
from bench.diffusion.training import Rows, denoising_loss
from bench.plugin import Access, Card, ModelDefense, Paper
from defenses._finetuning import CleanShare, some_clean

MOMENTUM = 0.9


@dataclass(frozen=True, kw_only=True)
class ANPRepair(ModelDefense):
    """``steps`` of SGD over ``batch_size`` images each, drawn from ``clean_share`` of the clean
    ones. ``perturbation``: eps; ``clean_weight``: alpha.
    """

    card: ClassVar[Card] = Card(
        name="anp_repair",
        summary="prunes the channels by which a perturbation of the weights does most harm",
        paper=Paper(
            title="Adversarial Neuron Pruning Purifies Backdoored Deep Models",
            authors="Dongxian Wu, Yisen Wang",
            year=2021,
            arxiv="2110.14430",
            bibtex=(
                "@inproceedings{wu2021anp, title={Adversarial Neuron Pruning Purifies Backdoored "
                "Deep Models}, "
                "author={Wu, Dongxian and Wang, Yisen}, booktitle={NeurIPS}, year={2021}}"
            ),
        ),
        applies_to=frozenset({"unconditional", "class"}),
        needs=frozenset({"weights", "clean data"}),
        tuned=(),
    )

    clean_share: CleanShare = 0.01
    threshold: Annotated[float, Interval(gt=0, lt=1)] = 0.2
    perturbation: Annotated[float, Gt(0)] = 0.4
    clean_weight: Annotated[float, Interval(ge=0, le=1)] = 0.2
    steps: Annotated[int, Ge(1)] = 2000
    batch_size: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 0.2

    def repair(self, access: Access) -> Generator:
        generator = access.generator
        rows = some_clean(access, self.clean_share)
        generator.unet.requires_grad_(False).eval()
        neurons = [Neurons(layer) for layer in masked_layers(generator.unet)]
        optimizer = torch.optim.SGD(
            [each.mask for each in neurons], lr=self.learning_rate, momentum=MOMENTUM
        )
        for step in range(self.steps):
            loss = batch_loss(access, rows, self.batch_size)
            worst_case(neurons, loss, self.perturbation, access)
            optimizer.zero_grad()
            ((1 - self.clean_weight) * loss()).backward()
            for each in neurons:
                each.rest()
            (self.clean_weight * loss()).backward()
            optimizer.step()
            with torch.no_grad():
                for each in neurons:
                    each.mask.clamp_(0, 1)
            access.progress(step + 1, self.steps, "mask steps")
        for each in neurons:
            each.prune(self.threshold)
        generator.unet.requires_grad_(True)
        return generator


class Neurons:
    """The output channels of ``layer``, each with its mask m and perturbations d and x, all (c, 1,
    1): y = (m + d) (w x) + (1 + x) b.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        shape = (layer.out_channels, 1, 1)
        device = layer.weight.device
        self.layer = layer
        self.mask = torch.ones(shape, device=device, requires_grad=True)
        self.of_weight, self.of_bias = (torch.zeros(shape, device=device) for _ in range(2))
        self._handle = layer.register_forward_hook(self._masked)

    def _masked(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        bias = 0 if self.layer.bias is None else self.layer.bias.reshape(-1, 1, 1)
        return (output - bias) * (self.mask + self.of_weight) + bias * (1 + self.of_bias)

    def perturb(self, of_weight: Tensor, of_bias: Tensor) -> None:
        """Sets d and x."""
        self.of_weight, self.of_bias = of_weight, of_bias

    def rest(self) -> None:
        """No perturbation."""
        self.perturb(torch.zeros_like(self.of_weight), torch.zeros_like(self.of_bias))

    @torch.no_grad()
    def prune(self, threshold: float) -> None:
        """Zero weights for the channels whose mask is below ``threshold``, and no mask for any."""
        self._handle.remove()
        self.layer.weight[self.mask.flatten() < threshold] = 0


def masked_layers(network: nn.Module) -> list[nn.Conv2d]:
    """Every convolution but the network's last, in order."""
    last = getattr(network, "conv_out", None)
    return [one for one in network.modules() if isinstance(one, nn.Conv2d) and one is not last]


def worst_case(
    neurons: list[Neurons], loss: Callable[[], Tensor], size: float, access: Access
) -> None:
    """Perturbs all neurons at once, within ``size``: from a random start, one step of ``size``
    along the sign of the gradient of ``loss``, upwards.
    """
    starts = []
    for each in neurons:
        drawn = access.rng.uniform(-size, size, (2, *each.mask.shape)).astype("float32")
        pair = [torch.from_numpy(part).to(each.mask.device).requires_grad_() for part in drawn]
        each.perturb(*pair)
        starts += pair
    slopes = torch.autograd.grad(loss(), starts, allow_unused=True)
    moved = [
        (start if slope is None else start + size * slope.sign()).detach().clamp(-size, size)
        for start, slope in zip(starts, slopes, strict=True)
    ]
    for index, each in enumerate(neurons):
        each.perturb(*moved[2 * index : 2 * index + 2])


def batch_loss(access: Access, rows: Rows, batch_size: int) -> Callable[[], Tensor]:
    """DDPM's loss of one batch of clean rows, with the same noise and timesteps on every call."""
    generator, rng = access.generator, access.rng
    device = generator.device
    chosen = torch.from_numpy(rng.integers(len(rows["images"]), size=batch_size))
    images = to_unit_range(rows["images"][chosen]).to(device)
    noise = torch.from_numpy(rng.standard_normal(images.shape, dtype="float32")).to(device)
    timesteps = torch.from_numpy(rng.integers(len(generator.schedule), size=batch_size)).to(device)
    labels = rows["labels"][chosen].to(device) if "labels" in rows else None
    return lambda: denoising_loss(
        lambda x, t: generator.predict_noise(x, t, labels),
        images,
        noise,
        timesteps,
        VariancePreserving(generator.schedule),
    )
