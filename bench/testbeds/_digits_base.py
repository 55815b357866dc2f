"""What the testbeds over :mod:`bench.testbeds.digits` share: data, evaluation network, and how
shipped weights are made and read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench import testbeds
from bench.classification.classifier import Classifier
from bench.classification.training import ClassifierSettings
from bench.contracts.data import TrainingSet
from bench.diffusion.generator import Generator
from bench.diffusion.process import VariancePreserving
from bench.diffusion.sampling import check_steps
from bench.diffusion.training import TrainingSettings, denoising_loss, train
from bench.errors import UserError
from bench.testbeds import digits_cnn
from bench.testbeds.base import ConditionalTestbed, Testbed, outline
from bench.testbeds.digits import CROPS, SIZE, digits_over_photographs

if TYPE_CHECKING:
    from diffusers import UNet2DModel

#: Two channels-last groups and a narrow full-resolution stage: on a CPU group normalisation and 16
#: x 16 convolutions are the cost.
NETWORK: dict[str, Any] = {
    "sample_size": SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 2,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "variance_type": "fixed_small",
    "clip_sample": False,
}
#: How many training rows each digit has, known without drawing them.
CLASS_ROWS = (568, 580, 568, 584, 580, 584, 580, 572, 556, 576)
Progress = Callable[[int, int, str], None]


def _network(options: dict[str, Any], seed: int) -> UNet2DModel:
    from diffusers import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(**options)


@dataclass(frozen=True, kw_only=True)
class DigitsTestbed(Testbed):
    """Digits over photographs, a :data:`NETWORK` of the subclass's, weights ``<name>.safetensors``
    among the assets.
    """

    clean_samples: int = 384
    triggered_samples: int = 64
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"

    network: ClassVar[dict[str, Any]] = NETWORK
    extractor: ClassVar[str] = digits_cnn.NAME
    embedded: ClassVar[bool] = True

    @classmethod
    def weights(cls) -> Path:
        """Where the shipped weights are."""
        return digits_cnn.ASSETS / f"{cls.name}.safetensors"

    def train_images(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["train"][0])

    def train_labels(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["train"][1])

    def held_out_images(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["held_out"][0])

    def training_outline(self) -> TrainingSet:
        return outline(
            sum(CLASS_ROWS),
            SIZE,
            torch.arange(len(CLASS_ROWS)).repeat_interleave(torch.tensor(CLASS_ROWS)),
        )

    def train_groups(self) -> Tensor:
        return torch.arange(len(self.train_images())) // CROPS

    def held_out_groups(self) -> Tensor:
        return torch.arange(len(self.held_out_images())) // CROPS

    def fresh_generator(self, seed: int) -> Generator:
        return Generator(_network(self.network, seed).eval(), dict(SCHEDULER))

    def base_generator(self) -> Generator:
        if not self.weights().is_file():
            raise UserError(
                f"{self.name}: no weights at {self.weights()}; make them with `castlewalls "
                f"pretrain {self.name}`"
            )
        generator = self.fresh_generator(0)
        weights = load_file(self.weights())
        generator.unet.load_state_dict({name: value.float() for name, value in weights.items()})
        return generator

    def register_extractor(self) -> None:
        # torch-fidelity imports torchvision, which takes seconds that planning does not need.
        from bench.testbeds import digits_extractor

        digits_extractor.register()

    def faults(self) -> list[str]:
        shipped = (str(self.weights()), str(digits_cnn.WEIGHTS))
        lines = [
            f"{line}; `castlewalls pretrain {self.name}` makes it anew"
            for line in testbeds.damaged_files()
            if line.startswith(shipped)
        ]
        try:
            check_steps(self.sampler_settings(), SCHEDULER["num_train_timesteps"])
        except ValueError as error:
            lines.append(str(error))
        return [*super().faults(), *(f"{self.name}: {line}" for line in lines)]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([self.network, SCHEDULER]).encode())
        for path in (self.weights(), digits_cnn.WEIGHTS, Path(__file__).parent / "digits.py"):
            digest.update(path.read_bytes() if path.is_file() else b"missing")
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class ClassDigits(DigitsTestbed, ConditionalTestbed):
    """Digits that are asked for by class: their labels, and who recognises them. 15 DDIM steps at
    guidance 2, without clipping; 50 steps, the paper's number, draw images of nearly the same FID
    in three times the time.
    """

    sampler: str = "ddim"
    num_inference_steps: int = 15
    network_batch: int = 128
    judged_images: int | None = 400
    test_images: int = 128

    class_names: ClassVar[tuple[str, ...]] = tuple(
        "zero one two three four five six seven eight nine".split()
    )

    def train_labels(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["train"][1])

    def held_out_labels(self) -> Tensor:
        return torch.tensor(digits_over_photographs()["held_out"][1])

    def fresh_classifier(self, seed: int, classes: int | None = None) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = digits_cnn.DigitsCNN()
            head = torch.nn.Linear(digits_cnn.FEATURES, classes or len(self.class_names))
        return Classifier(network.body, head)

    def evaluation_classifier(self) -> Classifier:
        network = digits_cnn.load_digits_cnn()
        return Classifier(network.body, network.head).eval()

    def classifier_settings(self) -> ClassifierSettings:
        return ClassifierSettings(steps=600, precision="bfloat16")

    def copy_extractor(self) -> str:
        """The network of FID: no copy detector, but it tells digits and photographs apart, and
        needs no download.
        """
        return digits_cnn.NAME


def train_clean(
    generator: Generator,
    testbed: DigitsTestbed,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None,
    device: str,
) -> float:
    """Trains ``generator`` in place on the clean digits. Returns its last loss, the mean over 250
    steps.
    """
    losses = train(
        generator,
        {"images": testbed.train_images(), "labels": testbed.train_labels()},
        lambda predict, rows, noise, timesteps, schedule: denoising_loss(
            predict, rows["images"], noise, timesteps, VariancePreserving(schedule)
        ),
        settings,
        seed,
        device=device,
        progress=progress,
    )
    return sum(losses[-250:]) / 250


def pretrain_generator(
    testbed: DigitsTestbed,
    settings: TrainingSettings,
    output: Path,
    seed: int,
    progress: Progress | None,
    device: str,
) -> dict[str, float]:
    """Trains the testbed's clean generator and writes it into ``output``. Returns the final
    training loss.
    """
    output.mkdir(parents=True, exist_ok=True)
    generator = testbed.fresh_generator(seed)
    loss = train_clean(generator, testbed, settings, seed, progress, device)
    # Half precision halves the file and is below the noise of any metric here.
    half = {
        name: value.half().contiguous() for name, value in generator.unet.cpu().state_dict().items()
    }
    save_file(half, output / testbed.weights().name)
    return {"final_training_loss": loss}
