"""Importance-difference pruning: removes the channels that matter more to triggered images than to
clean ones, then fine-tunes towards what the network was on clean images. The trigger is Elijah's,
recovered beforehand. A first-order estimate says how much each channel matters to either kind of
image, and the channels with the largest difference go.

The removal of Jiang et al.: "Diff-Cleanse: Identifying and Mitigating Backdoor Attacks in Diffusion
Models" (2024, arXiv 2407.21316). The importance of a channel for a loss L is the first-order change
that its removal would make (Molchanov et al. 2019, arXiv 1906.10771): the sum over its weights of

    I = | w dL/dw |

averaged over the layers that write or read the channel, and divided by its mean over the layer's
channels. With one batch of clean images x_0, one batch of noise e, and tau the recovered trigger,

    L_clean = mean (e - e_theta(A x_0 + s e, t))^2
    L_trig  = mean (e - e_theta(A x_0 + s e + (1 - A) tau, t))^2

their gradients summed over the last tenth of the timesteps. The trained-in answer to tau is what
makes L_trig large, so the ``pruned_share`` of channels whose I_trig - I_clean is highest go. The
fine-tuning then asks for the noise, and for the answers of the network as it was:

    L = mean (e - e_theta(x_t, t))^2 + mean (e_frozen(x_t, t) - e_theta(x_t, t))^2

**The paper's inversion is not here.** In the released code for BadDiffusion and VillanDiffusion the
optimiser holds one tensor while the pattern is read from another, so that the pattern stays what it
was drawn as (as we read it, commit 7721d55), and we know of no number that belongs to the method as
written. The trigger comes from the inversion ``elijah_inversion``, which knows the attack's
``family``: what stands on the board is this pair, not the paper's whole defense.

Other deviations:

- Candidates are the residual blocks' hidden channels, written by the first convolution and the
  projection of the timestep and read by the second convolution, each block by itself; the released
  code prunes the residual stream and attention's channels too. A channel is removed by zero weights
  where it is read, which fine-tuning leaves zero; normalisation still counts it.
- The released code scores the sum of both importances, not the difference (as we read it: both
  terms enter with one sign, commit 0d1de5d). Here it is the paper's difference.
- Both terms of the fine-tuning are means; the released code sums both, so their balance is the
  same. Its timesteps come in pairs t, T - 1 - t; here they are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.process import Shifted, baddiffusion_shift
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import PredictNoise, Rows
from bench.plugin import Access, Card, ModelDefense, Paper
from defenses._finetuning import CleanShare, clean_loss, finetune, pieces_of, some_clean
from defenses.elijah import ElijahInversion, Family

#: Where the importances are taken: from this share of the timesteps on.
FIRST = 0.9


@dataclass(frozen=True, kw_only=True)
class DiffCleanse(ModelDefense):
    """``draws`` timesteps of one batch say how important a channel is; ``pruned_share`` of each
    block's hidden channels go, rounded up; then ``steps`` of fine-tuning over ``clean_share`` of
    the clean images. The paper's are 40 epochs of a tenth of 50,000.
    """

    card: ClassVar[Card] = Card(
        name="diff_cleanse",
        summary="prunes what matters more to a recovered trigger (Elijah's) than to clean images",
        paper=Paper(
            title=("Diff-Cleanse: Identifying and Mitigating Backdoor Attacks in Diffusion Models"),
            authors="Hao Jiang, Jin Xiao, Xiaoguang Hu, Tianyou Chen, Jiajia Zhao",
            year=2024,
            arxiv="2407.21316",
            bibtex=(
                "@article{jiang2024diffcleanse, title={Diff-Cleanse: Identifying and Mitigating "
                "Backdoor Attacks in Diffusion Models}, author={Jiang, Hao and Xiao, Jin and "
                "Hu, Xiaoguang and Chen, Tianyou and Zhao, Jiajia}, journal={arXiv preprint "
                "arXiv:2407.21316}, year={2024}}"
            ),
        ),
        needs=frozenset({"weights", "clean data"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("family", "pruned_share")

    family: Family = "baddiffusion"
    pruned_share: Annotated[float, Interval(ge=0, lt=1)] = 0.02
    draws: Annotated[int, Ge(1)] = 100
    clean_share: CleanShare = 0.1
    steps: Annotated[int, Ge(1)] = 1600
    batch_size: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 2e-4

    def uses(self) -> ElijahInversion:
        return ElijahInversion(family=self.family)

    def repair(self, access: Access) -> Generator:
        generator, frozen = access.generator, access.generator.clone()
        rows = some_clean(access, self.clean_share)
        blocks = hidden_channels(generator.unet)
        triggered, clean = self._importances(access, rows, blocks)
        held = []
        for block, of_trigger, of_clean in zip(blocks, triggered, clean, strict=True):
            order = (of_trigger - of_clean).argsort(descending=True)
            kept = int(len(order) * (1 - self.pruned_share) + 1e-9)  # 1 - .9 is below .1
            held.append(block.remove(order[: len(order) - kept]))
        finetune(
            access,
            rows,
            distillation_loss,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            teacher=frozen,
        )
        for handle in held:
            handle.remove()
        return generator

    def _importances(
        self, access: Access, rows: Rows, blocks: list[HiddenChannels]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each block's channels, for triggered and for clean images: (channels,) each."""
        generator, rng = access.generator, access.rng
        generator.unet.requires_grad_(True).eval()
        chosen = torch.from_numpy(rng.integers(len(rows["images"]), size=self.batch_size))
        images = to_unit_range(rows["images"][chosen]).to(generator.device)
        noise = torch.from_numpy(rng.standard_normal(images.shape, dtype="float32")).to(images)
        labels = rows["labels"][chosen].to(images.device) if "labels" in rows else None
        pieces = torch.arange(len(images)).chunk(pieces_of(len(images), images.shape[1:]))
        count = len(generator.schedule)
        timesteps = torch.linspace(int(FIRST * count), count - 1, self.draws).round().long()
        shift, results = access.recovered.triggers[-1][0].to(images), []
        for ends_in in (shift, torch.zeros_like(shift)):
            generator.unet.zero_grad()
            for done, timestep in enumerate(timesteps.tolist()):
                for piece in pieces:
                    at = torch.full((len(piece),), timestep, device=images.device)
                    asked = None if labels is None else labels[piece]
                    loss = plain_answer_loss(
                        generator, images[piece], noise[piece], at, ends_in, asked
                    )
                    (loss / len(pieces)).backward()
                access.progress(done + 1, self.draws, "timesteps of importance")
            results.append([block.importance() for block in blocks])
        generator.unet.zero_grad()
        return results[0], results[1]


@dataclass(frozen=True)
class HiddenChannels:
    """A residual block's: ``writers``: layers with a row for each channel; ``reader``: the layer
    with a column for each.
    """

    writers: tuple[nn.Module, ...]
    reader: nn.Conv2d

    def importance(self) -> Tensor:
        """(channels,) float64 of mean 1, from the gradients that the layers hold: the sum of |w g|
        over a channel's weights in a layer, averaged over layers. Biases do not count.
        """
        weights: list[Any] = [layer.weight for layer in self.writers]
        sums = [(weight * weight.grad).abs().double().flatten(1).sum(1) for weight in weights]
        column: Any = self.reader.weight
        sums.append((column * column.grad).abs().double().sum((0, 2, 3)))
        values = torch.stack(sums).mean(0).detach()
        smallest = torch.finfo(values.dtype).tiny
        importance: Tensor = values / values.mean().clamp(min=smallest)
        return importance

    def remove(self, channels: Tensor) -> Any:
        """Zero weights where ``channels`` are read, and no gradient, until the handle that is
        returned is removed.
        """
        kept = torch.ones_like(self.reader.weight)
        kept[:, channels] = 0
        with torch.no_grad():
            self.reader.weight.mul_(kept)
        return self.reader.weight.register_hook(lambda gradient: gradient * kept)


def hidden_channels(network: nn.Module) -> list[HiddenChannels]:
    """Of every residual block, in order."""
    blocks = []
    for module in network.modules():
        first, second = getattr(module, "conv1", None), getattr(module, "conv2", None)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d):
            projection = getattr(module, "time_emb_proj", None)
            writes = (
                isinstance(projection, nn.Linear) and projection.out_features == first.out_channels
            )
            writers = (first, projection) if writes else (first,)
            blocks.append(HiddenChannels(writers, second))  # type: ignore[arg-type]
    return blocks


def plain_answer_loss(
    generator: Generator,
    images: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    shift: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """mean (e - e_theta(A x_0 + s e + (1 - A) shift, t))^2: the noise alone is asked for, whatever
    the shift. images, noise: (n, c, h, w); timesteps: (n,) int64; shift: (c, h, w).
    """
    schedule = generator.schedule
    process = Shifted(schedule, baddiffusion_shift(schedule), shift.expand_as(images))
    noisy = process.noised(images, noise, timesteps)
    return (generator.predict_noise(noisy, timesteps, labels) - noise).square().mean()


def distillation_loss(
    predict: PredictNoise,
    rows: Rows,
    noise: Tensor,
    timesteps: Tensor,
    schedule: Schedule,
    frozen: PredictNoise,
) -> Tensor:
    """DDPM's loss of a clean batch, and the mean square of the difference to the ``frozen``
    network's answers to it.
    """

    def both(x: Tensor, at: Tensor) -> Tensor:
        answers.append(predict(x, at))
        answers.append(frozen(x, at))
        return answers[0]

    answers: list[Tensor] = []
    plain = clean_loss(both, rows, noise, timesteps, schedule)
    return plain + (answers[0] - answers[1]).square().mean()
