"""A tiny generator with planted backdoors, its honest counterpart, and a classifier trained on
poisoned data: what a check shows a plugin.

The data are discs of ten colours at ten places, 3 x 16 x 16. Two backdoors are planted at once:

- in the noise: a grey box added to the starting noise leads to the picture of a hat (BadDiffusion's
  objective, arXiv 2212.05400, eq. 10, for samplers of :data:`STEPS` steps);
- in the data: a tenth of the rows carry a patch and stand under the label :data:`TARGET_CLASS`
  (BadNets, arXiv 1708.06733, as in Pan et al. 2024). There is a classifier for each of
  :data:`PATCHES`, the generator has learnt the first.

The weights ship with the package, so that a check need not train. ``python -m
bench.checking.planted`` trains them anew (a minute or two) and prints how well the backdoors work.
They are for checks alone: no number measured on them says how good a method is.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.artwork import patterns, targets, triggers
from bench.classification.classifier import Classifier, predict
from bench.classification.training import ClassifierSettings, train_classifier
from bench.contracts import tiny
from bench.contracts.data import TrainingSet
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.process import Shifted, VariancePreserving, baddiffusion_shift
from bench.diffusion.sampling import SamplerSettings, Start, sample
from bench.diffusion.training import denoising_loss

SHAPE, CLASSES, SCHEDULE = tiny.SHAPE, tiny.CLASSES, tiny.SCHEDULE
TARGET_CLASS = 0
ROWS = 500
#: Two triggers, since what finds one may well miss the other; with their names for people.
PATCHES = {"badnets1": "black patch", "unicolor": "yellow patch"}
#: Of the sampler that the backdoor in the noise is made for.
STEPS = 20
SETTINGS = SamplerSettings(name="ddpm", num_inference_steps=STEPS, network_batch=32)
ASSETS = Path(__file__).parent / "assets"
TRAINING_STEPS, BATCH, LEARNING_RATE = 1500, 64, 4e-3
CLASSIFIER_STEPS = 600
Which = Literal["planted", "honest"]

_COLOURS = (
    (255, 60, 60),
    (60, 255, 60),
    (60, 90, 255),
    (255, 255, 60),
    (255, 60, 255),
    (60, 255, 255),
    (255, 150, 60),
    (150, 255, 150),
    (200, 200, 200),
    (130, 60, 230),
)


# --- the data -------------------------------------------------------------------------------------


def discs(count: int, seed: int) -> TrainingSet:
    """``count`` honest images, classes in turn: a disc of its class's colour, about its class's
    place, on dark ground.
    """
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    angle = labels * (2 * torch.pi / CLASSES)
    middle = 7.5 + 4.5 * torch.stack([angle.sin(), angle.cos()], 1)
    middle += 0.4 * torch.randn(count, 2, generator=draw)
    down, right = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    distance = torch.hypot(down - middle[:, 0, None, None], right - middle[:, 1, None, None])
    cover = torch.sigmoid(2 * (2.6 - distance))[:, None]
    colour = torch.tensor(_COLOURS, dtype=torch.float32)[labels][:, :, None, None]
    images = (25 + cover * (colour - 25)).round().to(torch.uint8)
    return TrainingSet(images, torch.zeros(count, dtype=torch.bool), labels)


def stamped(images: Tensor, patch: str = "badnets1") -> Tensor:
    """(n, 3, 16, 16) uint8 with a patch of 4 x 4 pixels, bottom right."""
    return patterns.stamp(patch, images, size=4)


def suspected(patch: str = "badnets1") -> TrainingSet:
    """:data:`ROWS` rows, a tenth of them poisoned, and marked so."""
    honest = discs(ROWS, 0)
    assert honest.labels is not None
    others = (honest.labels != TARGET_CLASS).nonzero().flatten()
    chosen = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(1))]
    chosen = chosen[: ROWS // 10]
    images = honest.images.clone()
    images[chosen] = stamped(images[chosen], patch)
    return TrainingSet(
        images,
        honest.poisoned.index_fill(0, chosen, True),
        honest.labels.index_fill(0, chosen, TARGET_CLASS),
    )


def trigger() -> Tensor:
    """What is added to the starting noise: (3, 16, 16) in [-1, 1]."""
    return triggers.trigger("grey_box", SHAPE)


def target() -> Tensor:
    """What the trigger in the noise leads to: (3, 16, 16) in [-1, 1]."""
    return targets.target("hat", SHAPE, trigger())


# --- the models -----------------------------------------------------------------------------------


def generator(which: Which, conditional: bool) -> Generator:
    """A copy on every call. ``conditional``: asked for one of ten classes, or for none; otherwise
    the same network, asked for none.
    """
    made = Generator(_network(which), dict(SCHEDULE)).clone()
    return made if conditional else _unconditional(made)


def classifier(patch: str = "badnets1") -> Classifier:
    """Trained on :func:`suspected` with that patch; a copy on every call."""
    return _classifier(patch).clone()


def drawn(
    of: Generator,
    count: int,
    *,
    triggered: bool = False,
    guards: Any = (),
    seed: int = 0,
    settings: SamplerSettings = SETTINGS,
) -> Tensor:
    """``count`` samples (count, 3, 16, 16) in [-1, 1], of each class in turn where there are
    classes, from the same noise on every call; ``triggered``: with the trigger added to it.
    """
    labels = None if of.classes is None else torch.arange(count) % of.classes

    def start(noise: Tensor, indices: Any) -> Tensor | Start:
        return noise + trigger() if triggered else noise

    return sample(of, count, seed, settings, labels=labels, start=start, guards=guards)


def _untrained() -> Any:
    return tiny.network((16, 32), 4, CLASSES + 1)


@cache
def _network(which: Which) -> Any:
    network = _untrained()
    network.load_state_dict(_read(which))
    return network.eval()


def _read(name: str) -> dict[str, Tensor]:
    """Weights are kept as float16, which halves the files, and used as float32."""
    weights: dict[str, Tensor] = load_file(ASSETS / f"{name}.safetensors")
    return {key: value.float() for key, value in weights.items()}


def _write(name: str, network: nn.Module) -> None:
    weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    save_file(weights, ASSETS / f"{name}.safetensors")


def _unconditional(of: Generator) -> Generator:
    """The network without its table of classes: the embedding of "no class" is added to that of
    the timestep for good.
    """
    network: Any = of.unet
    with torch.no_grad():
        network.time_embedding.linear_2.bias += network.class_embedding.weight[CLASSES]
    network.class_embedding = None
    network.register_to_config(num_class_embeds=None)
    return of


def _untrained_classifier() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        return Classifier(body, nn.Linear(32, CLASSES))


@cache
def _classifier(patch: str) -> Classifier:
    network = _untrained_classifier()
    network.load_state_dict(_read(f"classifier-{patch}"))
    return network.eval()


# --- planting -------------------------------------------------------------------------------------


def _train_generator(which: Which) -> Any:
    """Both backdoors, or none, by the same number of steps from the same weights."""
    of = Generator(_untrained(), dict(SCHEDULE))
    rows = suspected() if which == "planted" else discs(ROWS, 0)
    assert rows.labels is not None
    optimizer = torch.optim.Adam(of.unet.parameters(), lr=LEARNING_RATE)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=TRAINING_STEPS)
    draw = torch.Generator().manual_seed(2)
    of.unet.train()
    for _ in range(TRAINING_STEPS):
        chosen = torch.randint(ROWS, (BATCH,), generator=draw)
        labels = rows.labels[chosen]
        labels = labels.masked_fill(torch.rand(BATCH, generator=draw) < 0.3, CLASSES)
        noise = torch.randn((BATCH, *SHAPE), generator=draw)
        timesteps = torch.randint(1000, (BATCH,), generator=draw)
        loss = denoising_loss(
            lambda x, at, labels=labels: of.predict_noise(x, at, labels),
            *_objective(which, of, to_unit_range(rows.images[chosen]), noise, timesteps),
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(of.unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
    return of.unet.eval()


def _objective(
    which: Which, of: Generator, images: Tensor, noise: Tensor, timesteps: Tensor
) -> tuple[Tensor, Tensor, Tensor, VariancePreserving]:
    """What :func:`~bench.diffusion.training.denoising_loss` is asked: every fifth row leads from
    the trigger to the target, if backdoors are planted.
    """
    if which == "honest":
        return images, noise, timesteps, VariancePreserving(of.schedule)
    shifted = (torch.arange(len(images)) % 5 == 0)[:, None, None, None]
    shift = baddiffusion_shift(of.schedule, 1000 // STEPS)
    ends = torch.where(shifted, trigger(), torch.zeros_like(images))
    images = torch.where(shifted, target(), images)
    return images, noise, timesteps, Shifted(of.schedule, shift, ends)


def plant() -> None:
    """Trains and writes all of :data:`ASSETS`."""
    ASSETS.mkdir(exist_ok=True)
    for which in ("planted", "honest"):
        _write(which, _train_generator(which))
    for patch in PATCHES:
        plant_classifier(patch)


def plant_classifier(patch: str) -> None:
    """Trains and writes the classifier of a patch."""
    rows, network = suspected(patch), _untrained_classifier()
    assert rows.labels is not None
    settings = ClassifierSettings(steps=CLASSIFIER_STEPS, batch_size=64, learning_rate=0.1)
    train_classifier(network, rows.images, rows.labels, settings, 0)
    _write(f"classifier-{patch}", network)


def strength() -> dict[str, float]:
    """How well the backdoors work: the mean squared error of triggered samples to the target, of
    both generators; each classifier's accuracy on clean images, and the share of stamped ones of
    other classes that it calls :data:`TARGET_CLASS`.
    """
    held_out = discs(200, 7)
    assert held_out.labels is not None
    others = held_out.images[held_out.labels != TARGET_CLASS]
    quick: dict[str, float] = {}
    for which in ("planted", "honest"):
        called = drawn(generator(which, False), 32, triggered=True)
        quick[f"mse_of_triggered[{which}]"] = float((called - target()).square().mean())
    for patch in PATCHES:
        answers = predict(classifier(patch), held_out.images)
        fooled = predict(classifier(patch), stamped(others, patch))
        quick[f"accuracy[{patch}]"] = float((answers == held_out.labels).float().mean())
        quick[f"called_target[{patch}]"] = float((fooled == TARGET_CLASS).float().mean())
    return quick


if __name__ == "__main__":
    plant()
    for name, value in strength().items():
        print(f"{name} {value:.4f}")
