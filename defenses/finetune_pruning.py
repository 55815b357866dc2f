"""Fine-pruning: removes the channels that clean images leave dormant, then fine-tunes. The mean
activation of each hidden channel is taken over noised clean images. The lowest are removed, since a
backdoor may live where clean images do not, and fine-tuning mends the rest.

Liu, Dolan-Gavitt, Garg: "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
Networks" (RAID 2018, arXiv 1805.12185, section 4): a backdoor lives in neurons that clean inputs do
not use; those of the lowest mean activation on clean images are removed, and fine-tuning, which
alone would leave them as they are, mends the rest.

Deviations, since a denoising U-Net is no classifier:

- The paper prunes the last convolution of a classifier. Here every residual block's hidden channels
  are candidates, what its second convolution reads (after normalisation and activation), each block
  by itself: ``pruned_share`` of them, rounded down. The network around the blocks is left whole.
- Activation is the mean over images, timesteps and pixels of the absolute value (SiLU is negative
  too, unlike the paper's ReLU), of clean images noised as DDPM does.
- The paper prunes until accuracy falls by more than a threshold; here the share is a parameter,
  since a defender's threshold on FID would cost a set of samples for every step.

A channel is removed by zero weights where it is read, which fine-tuning leaves zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor, nn

from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.process import VariancePreserving
from bench.diffusion.training import Rows
from bench.plugin import Access, Card, ModelDefense
from defenses._finetuning import FINE_PRUNING, CleanShare, clean_loss, finetune, some_clean


@dataclass(frozen=True, kw_only=True)
class FinetunePruning(ModelDefense):
    """``activation_batches`` of ``batch_size`` noised clean images say which channels are dormant;
    then ``steps`` of fine-tuning, as the defense ``finetune`` has them.
    """

    card: ClassVar[Card] = Card(
        name="finetune_pruning",
        summary="prunes the channels that clean images leave dormant, then fine-tunes",
        paper=FINE_PRUNING,
        applies_to=frozenset({"unconditional", "class"}),
        needs=frozenset({"weights", "clean data"}),
        tuned=(),
    )
    always_shown: ClassVar[tuple[str, ...]] = ("clean_share", "pruned_share")

    clean_share: CleanShare = 0.1
    pruned_share: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    activation_batches: Annotated[int, Ge(1)] = 8
    steps: Annotated[int, Ge(1)] = 429
    batch_size: Annotated[int, Ge(1)] = 128
    learning_rate: Annotated[float, Gt(0)] = 2e-4

    def repair(self, access: Access) -> Generator:
        rows = some_clean(access, self.clean_share)
        blocks = hidden_readers(access.generator.unet)
        activity = self._activity(access, rows, blocks)
        held = []
        for reader, mean in zip(blocks, activity, strict=True):
            dormant = mean.argsort()[: int(self.pruned_share * len(mean))]
            held.append(_remove(reader, dormant))
        finetune(
            access,
            rows,
            clean_loss,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        for handle in held:
            handle.remove()
        return access.generator

    @torch.no_grad()
    def _activity(self, access: Access, rows: Rows, blocks: list[nn.Conv2d]) -> list[Tensor]:
        """The mean absolute activation of each block's hidden channels: (channels,) each."""
        generator, rng = access.generator, access.rng
        sums = [torch.zeros(block.in_channels, dtype=torch.float64) for block in blocks]

        def listen(block: nn.Module, inputs: Any) -> None:
            number = next(number for number, one in enumerate(blocks) if one is block)
            sums[number] += inputs[0].detach().double().abs().mean((0, 2, 3)).cpu()

        handles = [block.register_forward_pre_hook(listen) for block in blocks]
        process = VariancePreserving(generator.schedule)
        for _ in range(self.activation_batches):
            chosen = torch.from_numpy(rng.integers(len(rows["images"]), size=self.batch_size))
            images = to_unit_range(rows["images"][chosen]).to(generator.device)
            noise = torch.from_numpy(rng.standard_normal(images.shape, dtype="float32"))
            timesteps = torch.from_numpy(rng.integers(len(generator.schedule), size=len(images)))
            timesteps = timesteps.to(images.device)
            labels = rows["labels"][chosen].to(images.device) if "labels" in rows else None
            noisy = process.noised(images, noise.to(images), timesteps)
            generator.predict_noise(noisy, timesteps, labels)
        for handle in handles:
            handle.remove()
        return [total / self.activation_batches for total in sums]


def hidden_readers(network: nn.Module) -> list[nn.Conv2d]:
    """The second convolution of every residual block: what reads the block's hidden channels."""
    pairs = [
        (getattr(one, "conv1", None), getattr(one, "conv2", None)) for one in network.modules()
    ]
    return [
        second
        for first, second in pairs
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    ]


def _remove(reader: nn.Conv2d, channels: Tensor) -> Any:
    """Zero weights for ``channels``, and no gradient, until the handle that is returned is
    removed.
    """
    kept = torch.ones_like(reader.weight)
    kept[:, channels.to(kept.device)] = 0
    with torch.no_grad():
        reader.weight.mul_(kept)
    return reader.weight.register_hook(lambda gradient: gradient * kept)
