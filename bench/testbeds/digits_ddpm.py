"""``digits-ddpm``: an unconditional DDPM over :mod:`bench.testbeds.data.digits`. The embedded
default: two CPU cores, offline, minutes. Sampled with 50 strided DDPM steps, without clipping;
`make science` compares them with all 1000.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from bench.diffusion.training import TrainingSettings
from bench.testbeds.data.digits import Digits
from bench.testbeds.parts import digits_cnn
from bench.testbeds.parts.digits_classifiers import DigitsFeatures, DigitsJudge
from bench.testbeds.parts.digits_unet import NETWORK, DigitsUNet, Progress, pretrain_generator
from bench.testbeds.parts.part import Counts, Sampling
from bench.testbeds.testbed import Testbed

PRETRAINING = TrainingSettings(
    steps=4000,
    precision="float32",
    learning_rate=2e-3,
    schedule="one_cycle",
    optimizer="adamw",
    weight_decay=1e-4,
    ema_decay=0.999,
)
DIGITS_DDPM = Testbed(
    name="digits-ddpm",
    summary=(
        "unconditional DDPM on 16 x 16 handwritten digits over photographs; ships with the package"
    ),
    kind="unconditional",
    data=Digits(),
    generator=DigitsUNet(
        network=NETWORK,
        finetuning=TrainingSettings(
            steps=400,
            batch_size=64,
            learning_rate=2e-3,
            schedule="cosine",
            precision="float32",
        ),
        scratch=replace(PRETRAINING, steps=3000),
    ),
    features=DigitsFeatures(),
    judge=DigitsJudge(),
    sampler=Sampling(num_inference_steps=50, precision="float32"),
    counts=Counts(clean_samples=384, triggered_samples=64),
    embedded=True,
    typical_seconds={
        "reference": 5,
        "train": 65,
        "sample": 13,
        "restored_images": 5,
        "repair": 60,
        "invert": 60,
        "features": 0.1,
        "measure": 0.5,
        "score": 2,
    },
)


def pretrain(
    output: Path, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> dict[str, float]:
    """Makes the shipped files from nothing: the classifier, then the generator, into ``output``.
    Returns what was reached.
    """
    output.mkdir(parents=True, exist_ok=True)
    classifier = digits_cnn.train_digits_cnn(seed, progress=progress)
    save_file(classifier.state_dict(), output / digits_cnn.WEIGHTS.name)
    reached = pretrain_generator(DIGITS_DDPM, PRETRAINING, output, seed, progress, device)
    return {"classifier_held_out_accuracy": digits_cnn.held_out_accuracy(classifier)} | reached
