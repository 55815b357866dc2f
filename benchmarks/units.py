"""What :mod:`benchmarks.peers` compares, unit by unit: our code and a transcription on the same
weights, rows and noise, each handing back the numbers that must agree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, SchedulerMixin, UNet2DModel
from torch import Tensor

from bench.artefacts.images import load_images, save_images
from bench.contracts.access import Access
from bench.contracts.data import Query, TrainingSet
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.noise import (
    initial_noise,
    numpy_stream,
    sample_streams,
    stream_seed,
    torch_stream,
)
from bench.diffusion.sampling import SamplerSettings, Start, sample
from bench.testbeds.digits_cfg import DIGITS_CFG
from benchmarks.pruning import PARAMS
from benchmarks.subject import SEED, Subject
from benchmarks.timing import Settings
from benchmarks.transcriptions import (
    baddiffusion,
    cognitive_distillation,
    diffusion_classifier,
    pipeline,
    strip,
)
from benchmarks.transcriptions.folded import Folded
from defenses.diffusion_classifier import DiffusionClassifier
from detectors.cognitive_distillation import AUTHORS_VALUES, CognitiveDistillation
from detectors.strip import STRIP

Run = Callable[[], Tensor]
#: A network of pixels in place of a folded one: the shape that the shipped networks had before.
UNFOLDED: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D",) * 3,
    "up_block_types": ("UpBlock2D",) * 3,
    "norm_num_groups": 2,
}
P_FILTER = 0.05
#: Of Cognitive Distillation, for the shipped classifier: its logits are small, and the authors'
#: value would empty every mask, of which all are then equal.
GAMMA = 0.004


@dataclass(frozen=True, kw_only=True)
class Unit:
    """``ours`` and ``transcription`` do the same work and hand back the same numbers: the largest
    difference of two is at most ``tolerance``. ``numbers``: what these are, for people.

    ``beside``: what else is timed in turn, with other numbers. ``check``: both sides' numbers,
    where the timed runs differ in more than rounding (noise of their own, pruning).
    """

    name: str
    ours: Run
    transcription: Run
    numbers: str
    tolerance: float
    beside: Mapping[str, Run] = field(default_factory=dict)
    check: Callable[[], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much work a unit is. ``suspects``: images of Cognitive Distillation (``mask_steps``);
    ``overlaid``: of STRIP, whose default is 100 overlays; ``classified``: of the diffusion
    classifier, ``draws`` timesteps each.
    """

    clean: int = 64
    triggered: int = 64
    suspects: int = 256
    overlaid: int = 64
    overlays: int = 100
    mask_steps: int = 10
    classified: int = 32
    draws: int = 15


FULL = Sizes()
QUICK = Sizes(
    clean=8, triggered=8, suspects=16, overlaid=8, overlays=10, mask_steps=5, classified=4, draws=4
)


#: What a GPU is given: enough to fill it.
LARGE = Sizes(clean=1024, triggered=1024, suspects=4096, overlaid=256, classified=256)


def units(settings: Settings, sizes: Sizes) -> list[Unit]:
    """All of them, on the device of ``settings``."""
    subject, device = Subject.make(), settings.device
    return [
        training(subject, settings),
        sampling(subject, settings, sizes),
        distillation(sizes, device),
        overlays(sizes, device),
        classification(sizes, device),
    ]


def training(subject: Subject, settings: Settings) -> Unit:
    """Steps of BadDiffusion's training from the shipped weights."""
    images, poisoned = subject.poisoned.images, subject.poisoned.poisoned
    shape = (images.shape[1], images.shape[2], images.shape[3])
    trigger, target = subject.attack.trigger_image(shape), subject.attack.target_image(shape)
    rate = subject.training_settings(settings, 1).learning_rate

    def ours() -> Tensor:
        generator = subject.testbed.base_generator()
        losses = subject.train(
            generator, settings, settings.steps, lambda *_: None, device=settings.device
        )
        return torch.tensor(losses)

    def transcribed(network: Folded) -> Tensor:
        scheduler = DDPMScheduler.from_config(subject.testbed.base_generator().scheduler_config)
        noise_draw = None
        if settings.device == "cuda":  # where ours draws it, too
            own = stream_seed(SEED, "training noise", 0)
            noise_draw = torch.Generator("cuda").manual_seed(own)
        losses = baddiffusion.train(
            network.to(settings.device),
            scheduler,
            images,
            poisoned,
            trigger,
            target,
            torch_stream(SEED, "training", 0),
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=rate,
            noise_draw=noise_draw,
        )
        return torch.tensor(losses)

    def folded() -> Folded:
        generator = subject.testbed.base_generator()
        return Folded(generator.unet, generator.fold)

    return Unit(
        name=f"{settings.steps} training steps of BadDiffusion",
        ours=ours,
        transcription=lambda: transcribed(folded()),
        numbers="a loss",
        tolerance=1e-3,
        beside={
            "transcription, pixels not folded": lambda: transcribed(
                Folded(UNet2DModel(**UNFOLDED), 1)
            )
        },
    )


def sampling(subject: Subject, settings: Settings, sizes: Sizes) -> Unit:
    """Clean and triggered samples of the shipped model, written as files and read again.

    On a GPU the script has one generator for all, and ours a stream a sample; the numbers are then
    compared without noise between the steps (DDIM), from the same start.
    """
    device = settings.device
    generator = subject.testbed.base_generator().to(device)
    sampler = subject.sampler_settings(settings)
    trigger = subject.attack.trigger_image(generator.image_shape)

    def triggered(noise: Tensor, indices: Any) -> Start:
        return Start(noise=subject.attack.invoke(Query(noise=noise), "noise").noise)

    def ours(sampler: SamplerSettings = sampler) -> Tensor:
        sets = []
        with tempfile.TemporaryDirectory() as folder:
            for count, start in ((sizes.clean, None), (sizes.triggered, triggered)):
                drawn = sample(generator, count, SEED, sampler, start=start, finish=to_uint8)
                save_images(Path(folder), drawn)
                sets.append(load_images(Path(folder)))
        return torch.cat(sets).float()

    def transcribed(
        scheduler: SchedulerMixin = DDPMScheduler, noise: Tensor | None = None
    ) -> Tensor:
        return torch.cat(
            [
                _scripted(plain, scheduler, generator, count, added, sampler, noise)
                for count, added in ((sizes.clean, None), (sizes.triggered, trigger))
            ]
        ).float()

    def without_noise() -> tuple[Tensor, Tensor]:
        streams = sample_streams(SEED, range(max(sizes.clean, sizes.triggered)), "sample", on)
        noise = initial_noise(streams, generator.noise_shape)
        return ours(replace(sampler, name="ddim")), transcribed(DDIMScheduler, noise)

    on = torch.device(device)
    plain = Folded(subject.testbed.base_generator().unet, generator.fold).to(device)
    return Unit(
        name=f"{sizes.clean} clean and {sizes.triggered} triggered samples",
        ours=ours,
        transcription=transcribed,
        numbers="a pixel of 0 to 255",
        # A network's rounding depends on its batch, and fifty steps amplify it.
        tolerance=8.0 if device == "cuda" else 2.0,
        check=without_noise if device == "cuda" else None,
    )


def _scripted(
    network: Folded,
    scheduler: SchedulerMixin,
    generator: Generator,
    count: int,
    added: Tensor | None,
    sampler: SamplerSettings,
    noise: Tensor | None,
) -> Tensor:
    """``count`` pictures by the transcription, on the network's device."""
    streams: Any = sample_streams(SEED, range(count), "sample")
    if generator.device.type == "cuda":
        streams = torch.Generator("cuda").manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        pipeline.draw(
            network,
            scheduler.from_config(generator.scheduler_config, clip_sample=False),
            streams,
            generator.image_shape,
            steps=sampler.num_inference_steps,
            folder=Path(folder),
            trigger=added,
            count=count,
            noise=noise,
        )
        return pipeline.read(Path(folder))


def _suspects(count: int) -> tuple[Tensor, TrainingSet]:
    """Training images that a detector judges, and all of them."""
    images = DIGITS_CFG.data.train_images()
    whole = TrainingSet(
        images, torch.zeros(len(images), dtype=torch.bool), DIGITS_CFG.data.train_labels()
    )
    return images[:count], whole


def _classifier(device: str) -> Any:
    """The shipped network that tells digits apart."""
    judge = DIGITS_CFG.judge
    assert judge is not None  # digits have one
    return judge.network(None, DIGITS_CFG.data).to(device)


def _access(**given: Any) -> Access:
    nothing: Any = SimpleNamespace()
    return Access(**{"rng": numpy_stream(SEED, "peers"), "sample": nothing, **given})


def distillation(sizes: Sizes, device: str = "cpu") -> Unit:
    """Cognitive Distillation's masks of training images."""
    images, _ = _suspects(sizes.suspects)
    classifier = _classifier(device)
    detector = CognitiveDistillation(gamma=GAMMA, steps=sizes.mask_steps)
    _, beta, rate = AUTHORS_VALUES["logits"]
    area = images[0, 0].numel()

    def transcribed() -> Tensor:
        drawn = numpy_stream(SEED, "peers").random((sizes.mask_steps, 3, 1, 1), dtype="float32")
        masks = cognitive_distillation.masks(
            classifier.clone(),
            images.float() / 255,
            torch.from_numpy(drawn),
            gamma=GAMMA,
            beta=beta,
            learning_rate=rate,
        )
        return -masks.sum((1, 2, 3))

    return Unit(
        name=f"Cognitive Distillation of {len(images)} images",
        ours=lambda: detector.score(images, _access(classifier=classifier)),
        transcription=transcribed,
        numbers=f"a mask's sum, of {area}",
        tolerance=0.1,
    )


def overlays(sizes: Sizes, device: str = "cpu") -> Unit:
    """STRIP's entropies of training images."""
    images, whole = _suspects(sizes.overlaid)
    classifier = _classifier(device)
    detector = STRIP(overlays=sizes.overlays)

    def transcribed() -> Tensor:
        chosen = numpy_stream(SEED, "peers").choice(
            len(whole.images), size=sizes.overlays, replace=False
        )
        pictures, laid_over = (
            np.asarray(part.numpy() / np.float32(255), dtype=np.float32)
            for part in (images, whole.images[torch.from_numpy(chosen)])
        )
        return -torch.from_numpy(strip.entropies(classifier, pictures, laid_over))

    return Unit(
        name=f"STRIP of {len(images)} images",
        ours=lambda: detector.score(images, _access(classifier=classifier, train_set=whole)),
        transcription=transcribed,
        numbers="a mean entropy",
        tolerance=1e-4,
    )


def classification(sizes: Sizes, device: str = "cpu") -> Unit:
    """The diffusion classifier on held-out images."""
    pruned = DiffusionClassifier(
        p_filter=P_FILTER, timesteps=sizes.draws, keep=_stages(sizes.draws)
    )
    whole = replace(pruned, keep=None)
    images = DIGITS_CFG.data.held_out_images()[: sizes.classified]
    plain = DIGITS_CFG.base_generator()
    network = Folded(plain.unet, plain.fold).to(device)
    scheduler = DDPMScheduler.from_config(plain.scheduler_config)
    step = len(plain.schedule) // sizes.draws
    timesteps = [step // 2 + step * number for number in range(sizes.draws)]
    generator = DIGITS_CFG.base_generator().to(device)

    def ours(defense: DiffusionClassifier) -> Tensor:
        return defense.classify(images, _access(generator=generator))

    def transcribed(noise: diffusion_classifier.Noise) -> Tensor:
        return -diffusion_classifier.errors(
            network,
            scheduler,
            to_unit_range(images),
            timesteps,
            noise,
            classes=plain.classes or 0,
            p_filter=P_FILTER,
        )

    def check() -> tuple[Tensor, Tensor]:
        shape = (sizes.draws, *plain.image_shape)
        shared = torch.from_numpy(
            numpy_stream(SEED, "peers").standard_normal(shape, dtype="float32")
        )
        return ours(whole), transcribed(
            lambda number, count: shared[number].expand(count, -1, -1, -1)
        )

    def fresh() -> Tensor:
        draw = torch_stream(SEED, "peers")
        return transcribed(lambda _, count: torch.randn(count, *plain.image_shape, generator=draw))

    return Unit(
        name=f"diffusion classifier, {len(images)} images",
        ours=lambda: ours(pruned),
        transcription=fresh,
        numbers="a class's error, the same noise and nothing pruned",
        tolerance=1e-4,
        beside={"ours, not pruned": lambda: ours(whole)},
        check=check,
    )


def _stages(draws: int) -> tuple[tuple[int, int], ...]:
    """The suite's stages of pruning, for so many draws."""
    suite: Any = PARAMS["keep"]
    return tuple(
        (classes, max(1, until * draws // int(str(PARAMS["timesteps"]))))
        for classes, until in suite
    )
