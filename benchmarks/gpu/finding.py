"""What a section of :mod:`benchmarks.gpu` hands back, and how much it measures."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.architectures import CIFAR10, Architecture
from benchmarks.device import Device
from benchmarks.timing import Settings


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A number, in every repetition; or, without values, why there is none."""

    section: str
    quantity: str
    unit: str = ""
    values: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured. ``batch``: of training and sampling; ``batches``: of the small
    network, to see when it fills the device; ``architecture``: of the larger network, with
    ``images`` at once.
    """

    batch: int
    steps: int
    repetitions: int
    batches: tuple[int, ...]
    architecture: Architecture
    images: int

    @classmethod
    def of(cls, device: Device) -> Sizes:
        """Real ones on a GPU, tiny ones on a CPU."""
        if device.cuda:
            return cls(
                batch=512,
                steps=50,
                repetitions=5,
                batches=(1, 16, 64, 256, 1024),
                architecture=CIFAR10,
                images=128,
            )
        tiny = {"sample_size": 16, "block_out_channels": (8, 16), "norm_num_groups": 4}
        blocks = {
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        return cls(
            batch=8,
            steps=2,
            repetitions=2,
            batches=(1, 4, 16),
            architecture=Architecture(tiny | blocks),
            images=4,
        )

    def settings(self) -> Settings:
        """As the other benchmarks have them."""
        return Settings(
            repetitions=self.repetitions,
            steps=self.steps,
            batch_size=self.batch,
            num_inference_steps=self.steps,
        )


def not_measured(section: str, quantity: str, why: str) -> Finding:
    """A row without a number."""
    return Finding(section=section, quantity=quantity, note=f"not measured: {why}")
