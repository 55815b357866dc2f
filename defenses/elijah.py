"""Elijah: recovers the trigger as the shift of the noise that the network answers in kind, and
trains it away. An inversion looks for the shift whose answer moves along with it. A repair then
asks the network to answer shifted noise as the suspected network answers plain noise, and trains on
clean images beside.

An et al.: "Elijah: Eliminating Backdoors Injected in Diffusion Models via Distribution Shift" (AAAI
2024, arXiv 2312.00050). A backdoored network asked at the last timestep about noise shifted by the
trigger r answers with the noise and a multiple of r, since it was trained to carry the shift on. So
the trigger is the tau whose answer moves along with it:

    min over tau of   mean | lambda tau - mean_b e_theta(n_b + tau, T - 1) |

with n_b one batch of noise for all steps, and Adam. **lambda depends on the attack's family**, and
so did the initial tau in the released code. The family is therefore declared knowledge of the
defender, ``family``, part of the name on the board; with the wrong one the same column shows what
it costs. For BadDiffusion lambda follows from its objective: the network is taught e + R r with R =
s / (1 + sqrt(alpha)), 0.5025 at the last step of DDPM's schedule, and 0.5 is used.

Removal trains on clean images, and asks the network to answer noise with and without tau as the
suspected one, frozen, answers noise without:

    L = |e - e_theta(x_t, t)|^2 + |e_theta(n + tau, T-1) - e_frozen(n, T-1)|^2
        + |e_theta(n, T-1) - e_frozen(n, T-1)|^2

each a mean, with n the batch's own noise. Two plugins: ``elijah_inversion`` recovers tau,
``elijah`` starts from it.

Deviations:

- tau goes from one to the other as a picture: clamped to [-1, 1] and rounded to 8 bits, which no
  trigger here exceeds. How far it went before is among the notes.
- The released code's objective for the score-based family (VE) has no place here, where every
  process is variance-preserving.
- For VillanDiffusion's deterministic samplers the released code starts in U(-1, 1) and takes ten
  steps; here the start is BadDiffusion's, -U(0, 1), and ``steps`` is every family's.
- For TrojDiff the released code *sums* the clean term over pixels, and a port sums all; here every
  family has means, so that the balance is the paper's.
- Its detector of backdoored models is not part of this file: the decision in the paper, a random
  forest over two statistics, is not in the released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import PredictNoise, Rows
from bench.plugin import Access, Card, Inversion, ModelDefense, Paper, Query, Recovered
from defenses._finetuning import CleanShare, clean_loss, finetune, pieces_of, some_clean

PAPER = Paper(
    title="Elijah: Eliminating Backdoors Injected in Diffusion Models via Distribution Shift",
    authors=(
        "Shengwei An, Sheng-Yen Chou, Kaiyuan Zhang, Qiuling Xu, Guanhong Tao, Guangyu Shen, "
        "Siyuan Cheng, Shiqing Ma, Pin-Yu Chen, Tsung-Yi Ho, Xiangyu Zhang"
    ),
    year=2024,
    arxiv="2312.00050",
    bibtex=(
        "@inproceedings{an2024elijah, title={Elijah: Eliminating Backdoors Injected in Diffusion "
        "Models via Distribution Shift}, author={An, Shengwei and Chou, Sheng-Yen and Zhang, "
        "Kaiyuan and Xu, Qiuling and Tao, Guanhong and Shen, Guangyu and Cheng, Siyuan and Ma, "
        "Shiqing and Chen, Pin-Yu and Ho, Tsung-Yi and Zhang, Xiangyu}, booktitle={AAAI}, "
        "year={2024}}"
    ),
)
Family = Literal["baddiffusion", "trojdiff", "villandiffusion_ode"]
#: lambda, and the sign of the initial tau, sign U(0, 1).
OBJECTIVES: dict[str, tuple[float, int]] = {
    "baddiffusion": (0.5, -1),
    "trojdiff": (0.5, 1),
    "villandiffusion_ode": (1.0, -1),
}


@dataclass(frozen=True, kw_only=True)
class ElijahInversion(Inversion):
    """``steps`` of Adam over a batch of ``batch_size`` noises; then ``samples`` images drawn from
    noise shifted by the trigger, the candidates of the target.
    """

    card: ClassVar[Card] = Card(
        name="elijah_inversion",
        summary="recovers the trigger as a shift of the noise; knows the attack's family",
        paper=PAPER,
        needs=frozenset({"weights", "queries"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("family",)

    family: Family = "baddiffusion"
    steps: Annotated[int, Ge(1)] = 100
    batch_size: Annotated[int, Ge(1)] = 100
    learning_rate: Annotated[float, Gt(0)] = 0.1
    samples: Annotated[int, Ge(1)] = 16

    def invert(self, access: Access) -> Recovered:
        generator, rng = access.generator, access.rng
        generator.unet.requires_grad_(False).eval()
        factor, sign = OBJECTIVES[self.family]
        shape = (self.batch_size, *generator.noise_shape)
        noise = torch.from_numpy(rng.standard_normal(shape, dtype="float32")).to(generator.device)
        start = rng.random(shape[1:], dtype="float32")
        shift = sign * torch.from_numpy(start).to(noise)
        shift.requires_grad_()
        optimizer, losses = torch.optim.Adam([shift], lr=self.learning_rate), []
        for step in range(self.steps):
            optimizer.zero_grad()
            losses.append(descend(generator, noise, shift, factor))
            optimizer.step()
            access.progress(step + 1, self.steps, "inversion steps")
        trigger = shift.detach().cpu().clamp(-1, 1)
        called = torch.from_numpy(
            rng.standard_normal((self.samples, *generator.noise_shape), dtype="float32")
        )
        return Recovered(
            labels=["recovered"],
            targets=[access.draw(Query(noise=called + trigger))],
            triggers=[trigger[None]],
            notes={
                "first_loss": losses[0],
                "last_loss": losses[-1],
                "largest_before_clamp": float(shift.detach().abs().max()),
            },
        )


def shift_loss(generator: Generator, noise: Tensor, shift: Tensor, factor: float) -> Tensor:
    """mean |factor tau - mean_b e_theta(n_b + tau, T - 1)|; noise (n, c, h, w), shift (c, h, w)."""
    return (factor * shift - _answers(generator, noise + shift).mean(0)).abs().mean()


def _answers(generator: Generator, noise: Tensor) -> Tensor:
    """The network's at the last timestep; (n, c, h, w) both."""
    last = torch.full((len(noise),), len(generator.schedule) - 1, device=noise.device)
    return generator.predict_noise(noise, last)


def descend(generator: Generator, noise: Tensor, shift: Tensor, factor: float) -> float:
    """Adds the gradient of :func:`shift_loss` to ``shift``'s, and returns the loss. Of noises too
    many for the memory the network is asked twice, in pieces: the loss is sign . (factor tau -
    mean) over the pixels, so the mean has to be known before any gradient is taken.
    """
    parts = noise.chunk(pieces_of(len(noise), noise.shape[1:]))
    if len(parts) == 1:
        loss = shift_loss(generator, noise, shift, factor)
        loss.backward()
        return loss.item()

    def summed(part: Tensor) -> Tensor:
        return _answers(generator, part + shift).sum(0) / len(noise)

    with torch.no_grad():
        error = factor * shift - torch.stack([summed(part) for part in parts]).sum(0)
    weight = error.sign() / error.numel()
    (weight * factor * shift).sum().backward()
    for part in parts:
        (-weight * summed(part)).sum().backward()
    return error.abs().mean().item()


@dataclass(frozen=True, kw_only=True)
class Elijah(ModelDefense):
    """``steps`` of ``batch_size`` images each, drawn from ``clean_share`` of the clean ones; for
    BadDiffusion the paper's are eleven epochs of a tenth of 50,000, for VillanDiffusion the
    released code's are fifty at a tenth of the learning rate.
    """

    card: ClassVar[Card] = Card(
        name="elijah",
        summary="recovers the trigger and trains the answer to it away; knows the attack's family",
        paper=PAPER,
        needs=frozenset({"weights", "clean data"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("family",)

    family: Family = "baddiffusion"
    clean_share: CleanShare = 0.1
    steps: Annotated[int, Ge(1)] = 429
    batch_size: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 2e-4

    def uses(self) -> ElijahInversion:
        return ElijahInversion(family=self.family)

    def repair(self, access: Access) -> Generator:
        shift = access.recovered.triggers[0][0].to(access.generator.device)

        def loss(
            predict: PredictNoise,
            rows: Rows,
            noise: Tensor,
            timesteps: Tensor,
            schedule: Schedule,
            frozen: PredictNoise,
        ) -> Tensor:
            return clean_loss(predict, rows, noise, timesteps, schedule) + removal_loss(
                predict, frozen, noise, shift, len(schedule) - 1
            )

        finetune(
            access,
            some_clean(access, self.clean_share),
            loss,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            teacher=access.generator.clone(),
        )
        return access.generator


def removal_loss(
    predict: PredictNoise, frozen: PredictNoise, noise: Tensor, shift: Tensor, last: int
) -> Tensor:
    """The two terms at timestep ``last``: the answers to noise with and without ``shift`` against
    the frozen network's to noise without.
    """
    timesteps = torch.full((len(noise),), last, device=noise.device)
    wanted = frozen(noise, timesteps)
    return (predict(noise + shift, timesteps) - wanted).square().mean() + (
        predict(noise, timesteps) - wanted
    ).square().mean()
