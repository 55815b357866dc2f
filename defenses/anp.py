"""ANP with absolute perturbations: looks for the backdoor's target by disturbing the network, as
BadDiffusion's appendix B does. Scale and bias of every channel are moved so that the denoising loss
on clean images grows, within a budget. The disturbed model then draws images, among which a
backdoored one may show its target.

Adversarial Neuron Pruning (Wu, Wang, NeurIPS 2021, arXiv 2110.14430) perturbs neurons to expose a
backdoored classifier. For a diffusion model (Chou et al. 2023, arXiv 2212.05400, section 4.6.1,
appendix B) every convolution's output channel c gets an absolute perturbation of its scale and
bias, y_c = (1 + d_c) conv(x)_c + x_c, and d, x are trained with Adam to *maximise* the denoising
loss on clean images. The hope: a backdoored model collapses to its target, which then shows in
samples from plain noise. It is a discovery, not a repair: the model is not changed.

Where paper and released code differ, the paper's text is the default and the code's choice a named
value:

- ``clamp``: ``perturbation`` keeps |d|, |x| <= budget (eq. 13); ``scale`` clamps the scale 1 + d
  itself to [-budget, budget], as the code does; with budget 1 the scale then starts on its bound.
- ``gradient_clip``: the code clips the norm at 1.0 (over all convolution weights too); the paper
  says nothing: ``None``.
- samples are drawn by the testbed's own sampler; the code samples with clip_sample on, which is
  itself a defense (``clip_x0``).

Linear layers (time embedding, attention) are not perturbed, as in the code. Deviation: an epoch may
be cut with ``steps_per_epoch``.

The perturbation is applied in float32, and its result left so: bfloat16 resolves factors about 1 in
steps of .004 to .008, and what a few hundred steps at 1e-4 reach is little more. The convolutions
themselves still run in the testbed's precision (float32 on the digits). Where that is bfloat16, the
ascent carries its rounding on: the last epoch's reconstruction differed between formats by a factor
of up to 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.process import VariancePreserving
from bench.diffusion.training import denoising_loss
from bench.plugin import Access, Card, Inversion, Paper, Recovered

#: How far Adam can move a parameter in the paper's 5 epochs of 391 steps at 1e-4.
PAPERS_REACH = 5 * 391 * 1e-4


@dataclass(frozen=True, kw_only=True)
class ANP(Inversion):
    """``samples`` images are drawn after every epoch. Adam moves a parameter by about
    ``learning_rate`` a step: on a data set with few steps an epoch, the paper's 1e-4 over 5 x 391
    steps corresponds to a larger rate. What the perturbations reached is among the notes, and a run
    that could move them less than half or more than twice as far as the paper's says so on its
    record.
    """

    card: ClassVar[Card] = Card(
        name="anp",
        summary=(
            "adversarial perturbation of every convolution, to make a backdoored model show "
            "its target"
        ),
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
        needs=frozenset({"weights", "clean data"}),
        tuned=(),
    )

    learning_rate: Annotated[float, Gt(0)] = 1e-4
    budget: Annotated[float, Gt(0)] = 4.0
    epochs: Annotated[int, Gt(0)] = 5
    batch_size: Annotated[int, Gt(0)] = 128
    steps_per_epoch: Annotated[int, Gt(0)] | None = None
    samples: Annotated[int, Gt(0)] = 64
    clamp: Literal["perturbation", "scale"] = "perturbation"
    gradient_clip: Annotated[float, Gt(0)] | None = None

    def invert(self, access: Access) -> Recovered:
        generator = access.generator
        generator.unet.requires_grad_(False).eval()
        scales, biases = _perturb(generator.unet)
        perturbations = [*scales, *biases]
        optimizer = torch.optim.Adam(perturbations, lr=self.learning_rate)
        steps = self.steps_per_epoch or -(-len(access.clean_images) // self.batch_size)
        recovered, losses = [], []
        for epoch in range(self.epochs):
            order = torch.from_numpy(access.rng.permutation(len(access.clean_images)))
            for step in range(steps):
                chosen = order[
                    torch.arange(step * self.batch_size, (step + 1) * self.batch_size) % len(order)
                ]
                losses.append(
                    self._ascend(
                        generator, access.clean_images[chosen], access, optimizer, perturbations
                    )
                )
                low, high = (
                    (-self.budget - 1, self.budget - 1)
                    if self.clamp == "scale"
                    else (-self.budget, self.budget)
                )
                with torch.no_grad():
                    for scale, bias in zip(scales, biases, strict=True):
                        scale.clamp_(low, high)
                        bias.clamp_(-self.budget, self.budget)
                access.progress(epoch * steps + step + 1, self.epochs * steps, "perturbation steps")
            recovered.append(access.sample(generator, self.samples))
        largest = max(float(values.detach().abs().max()) for values in perturbations)
        reach = self.epochs * steps * self.learning_rate
        if not PAPERS_REACH / 2 <= reach <= PAPERS_REACH * 2:
            access.remark(
                f"perturbations reached {largest:.2g} of a budget of {self.budget:g}; steps "
                f"times learning rate is {reach:.2g}, "
                f"the paper's {PAPERS_REACH:.2g}"
            )
        return Recovered(
            labels=[f"epoch {epoch + 1}" for epoch in range(self.epochs)],
            targets=recovered,
            notes={
                "largest_perturbation": largest,
                "budget": self.budget,
                "steps_times_learning_rate": reach,
                "last_denoising_loss": losses[-1],
            },
        )

    def _ascend(
        self,
        generator: Generator,
        images: Tensor,
        access: Access,
        optimizer: torch.optim.Adam,
        perturbations: list[Tensor],
    ) -> float:
        """One step up the clean denoising loss; returns it."""
        images = to_unit_range(images.to(generator.device))
        noise = torch.from_numpy(access.rng.standard_normal(images.shape, dtype="float32")).to(
            images
        )
        timesteps = torch.from_numpy(
            access.rng.integers(len(generator.schedule), size=len(images))
        ).to(images.device)
        loss = denoising_loss(
            generator.predict_noise,
            images,
            noise,
            timesteps,
            VariancePreserving(generator.schedule),
        )
        optimizer.zero_grad()
        (-loss).backward()
        if self.gradient_clip:
            torch.nn.utils.clip_grad_norm_(perturbations, self.gradient_clip)
        optimizer.step()
        return loss.item()


def _perturb(network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Hangs a zero perturbation of scale and bias on every convolution's output channels; returns
    both lists.
    """
    scales, biases = [], []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            shape = (1, module.out_channels, 1, 1)
            scale, bias = (
                torch.zeros(shape, device=module.weight.device, requires_grad=True)
                for _ in range(2)
            )
            scales.append(scale)
            biases.append(bias)

            def hook(
                module: nn.Module,
                inputs: Any,
                output: Tensor,
                scale: Tensor = scale,
                bias: Tensor = bias,
            ) -> Tensor:
                # Not cast back: a convolution's output lies on bfloat16's grid, and what moves it
                # by less than half a step of that grid would be rounded away after all.
                return output.float() * (1 + scale) + bias

            module.register_forward_hook(hook)
    return scales, biases
