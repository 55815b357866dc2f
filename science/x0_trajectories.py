"""Draws docs/clipping-and-poison/x0-*.svg: what a poisoned generator predicts on its way, where the
trigger goes and elsewhere.

``python -m science.x0_trajectories --store DIR`` takes the generators that suite
``science-clipping`` trained (seed 0), asks each for 64 images of the adversary's class under the
suite's DDIM at guidance 2 and 5, without a defense, with ``clip_x0`` and with ``clip_x0_ddim``, and
looks at the predicted clean image of every step before anything clips it. The starting noise is
that of the suite's own samples. A look at one seed, no evidence.

- outside: the share of values outside [-1, 1]; excess: the mean of max(|x0| - 1, 0). Inside the
  trigger's region (every pixel that stamping can change) and elsewhere; a blended trigger's region
  is the whole image.
- distance: the mean absolute difference to the trigger's own pixels, over the pixels it covers
  wholly and the images that end with the trigger when nothing clips (by the harness's trigger
  classifier); those same images are followed with clipping. A blended trigger covers no pixel
  wholly, so it has no such plot.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import torch
from torch import Tensor

from bench import registry, testbeds
from bench.artefacts.classifiers import load_classifier
from bench.classification.classifier import Classifier, predict
from bench.contracts.attack import Attack
from bench.contracts.defense import SamplerDefense
from bench.contracts.goals import label_of
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.sampling import Guard, SamplerSettings, sample
from bench.engine.store import Store
from bench.errors import UserError
from bench.record import read_runs
from leaderboard.aggregate import Interval
from science.drawing import Curve, chart

SUITE, SEED, COUNT = "science-clipping", 0, 64
WEIGHTS = (2.0, 5.0)
CLIPS = (None, "clip_x0", "clip_x0_ddim")
PATTERNS = {"badnets1": "Patch", "badnets2": "Blended trigger"}
OUTPUT = Path(__file__).parents[1] / "docs" / "clipping-and-poison"
QUANTITIES = {
    "outside": "share of predicted x0 outside −1 to 1",
    "excess": "mean of max(|x0| − 1, 0)",
}
X_NAME = "sampling step (the last one gives the image)"


@dataclass(frozen=True)
class Trained:
    """What a store holds of one attack. ``judge``: the harness's classifier of its trigger, class 1
    being that it is there.
    """

    generator: Generator
    attack: Attack
    judge: Classifier
    settings: SamplerSettings


@dataclass
class Recorder:
    """A guard that keeps every predicted x_0 (n, c, h, w) and changes nothing; the first in line
    sees it before it is clipped.
    """

    predicted: list[Tensor] = field(default_factory=list)
    keeps_noise: bool = False

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor:
        """Keeps a copy; hands on the very same tensor."""
        self.predicted.append(predicted_x0.clone())
        return predicted_x0

    def stepped(self, x: Tensor, timestep: int) -> Tensor:
        """Nothing to see here."""
        return x


@dataclass(frozen=True)
class Trajectory:
    """``predicted``: x_0 of every step (n, c, h, w), the first step first; ``images``: what came
    out (n, c, h, w), in [-1, 1].
    """

    predicted: tuple[Tensor, ...]
    images: Tensor


def outside(values: Tensor) -> float:
    """The share of values outside [-1, 1]; the ends are inside."""
    return float((values.abs() > 1).double().mean())


def excess(values: Tensor) -> float:
    """By how much values lie outside [-1, 1], on average over all of them."""
    return float((values.abs().double() - 1).clamp(min=0).mean())


def _stamped_extremes(attack: Attack, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A black and a white image, and the two as the attack stamps them: (2, c, h, w) uint8 each."""
    plain = torch.stack(
        [torch.zeros(shape, dtype=torch.uint8), torch.full(shape, 255, dtype=torch.uint8)]
    )
    trigger = attack.adds()
    if trigger is None or trigger.stamp is None:
        raise UserError(
            f"{attack.card.name} has no image trigger, so there is no region to look at"
        )
    return plain, trigger.stamp(plain)


def region(attack: Attack, shape: tuple[int, int, int]) -> Tensor:
    """Where stamping can change a pixel, by what it does to a black and a white image: (h, w)
    bool.
    """
    plain, stamped = _stamped_extremes(attack, shape)
    return (plain != stamped).any(dim=0).any(dim=0)


def covered(attack: Attack, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """The values that the trigger alone decides, whatever the image: where (c, h, w) bool, and what
    (c, h, w) in [-1, 1].
    """
    _, stamped = _stamped_extremes(attack, shape)
    return stamped[0] == stamped[1], to_unit_range(stamped[0])


def follow(
    trained: Trained, guidance: float, clip: str | None, seed: int = SEED, count: int = COUNT
) -> Trajectory:
    """Samples the adversary's class, as the suite does, under the defense ``clip``, and keeps what
    is predicted on the way.
    """
    goal = label_of(trained.attack.goal())
    if goal is None:
        raise UserError(f"{trained.attack.card.name} aims at no class")
    recorder = Recorder()
    guards: list[Guard] = [recorder]
    if clip:
        defense = registry.build("defenses", clip)
        assert isinstance(defense, SamplerDefense)
        guards.append(defense)
    settings = replace(trained.settings, guidance_scale=guidance)
    labels = torch.full((count,), goal)
    images = sample(
        trained.generator, count, seed, settings, labels=labels, guards=guards, batch_size=count
    )
    return Trajectory(tuple(recorder.predicted), images)


def distances(trajectory: Trajectory, where: Tensor, what: Tensor, rows: Tensor) -> list[float]:
    """The mean absolute difference to ``what`` (c, h, w) over ``where`` (c, h, w), over the images
    in ``rows`` (n,), step by step.
    """
    return [
        float((x0[rows][:, where] - what[where]).abs().double().mean())
        for x0 in trajectory.predicted
    ]


def plots(pattern: str, trained: Trained, seed: int = SEED, count: int = COUNT) -> dict[str, str]:
    """File name -> SVG, for one trigger. Without an image that ends with the trigger there is no
    plot of distances.
    """
    shape = trained.generator.image_shape
    inside = region(trained.attack, shape)
    trajectories = {
        (w, clip): follow(trained, w, clip, seed, count) for w in WEIGHTS for clip in CLIPS
    }
    name, files = PATTERNS[pattern], {}
    areas = (
        {"inside the trigger's region": inside, "elsewhere": ~inside}
        if not inside.all()
        else {"whole image": inside}
    )
    for quantity, words in QUANTITIES.items():
        measure = outside if quantity == "outside" else excess
        measured = {
            (w, clip, area): [measure(x0[:, :, mask]) for x0 in trajectory.predicted]
            for (w, clip), trajectory in trajectories.items()
            for area, mask in areas.items()
        }
        if len(areas) == 1:
            curves = [
                _curve(f"w = {w:g}", WEIGHTS.index(w), clip, values)
                for (w, clip, _), values in measured.items()
            ]
            files[f"x0-{pattern}-{quantity}.svg"] = _drawn(curves, words, f"{name}: {words}")
            continue
        for w in WEIGHTS:
            curves = [
                _curve(area, list(areas).index(area), clip, values)
                for (weight, clip, area), values in measured.items()
                if weight == w
            ]
            files[f"x0-{pattern}-{quantity}-w{w:g}.svg"] = _drawn(
                curves, words, f"{name}, guidance {w:g}: {words}"
            )
    where, what = covered(trained.attack, shape)
    if where.any():
        curves = []
        for index, w in enumerate(WEIGHTS):
            ends = predict(trained.judge, to_uint8(trajectories[w, None].images)) == 1
            for clip in CLIPS if ends.any() else ():
                label = f"w = {w:g}, {int(ends.sum())} of {count} images"
                curves.append(
                    _curve(label, index, clip, distances(trajectories[w, clip], where, what, ends))
                )
        if curves:
            words = "mean |x0 − trigger| where it goes"
            files[f"x0-{pattern}-distance.svg"] = _drawn(
                curves, words, f"{name}: {words}, images that end with it unclipped"
            )
    return files


def _curve(name: str, index: int, clip: str | None, values: Sequence[float]) -> Curve:
    points = [(float(step), Interval(value, None, None, 1)) for step, value in enumerate(values, 1)]
    position = CLIPS.index(clip)
    return Curve(
        f"{name}, {clip or 'no defense'}",
        len(CLIPS) * index + position,
        points,
        dashed=clip is not None,
    )


def _drawn(curves: Sequence[Curve], y_name: str, title: str) -> str:
    """A chart scaled to all steps but the earliest: the first predictions, from pure noise, may lie
    far outside.
    """
    later = [
        interval.mean for curve in curves for _, interval in curve.points[len(curve.points) // 10 :]
    ]
    return chart(curves, (), X_NAME, y_name, title, max(later) * 1.12 or 1.0)


def trained_in(store: Path, pattern: str, seed: int = SEED) -> Trained:
    """The generator of an undefended cell of the suite, found through the input keys in the store.

    Raises :class:`UserError` if the store holds no such cell.
    """
    runs = read_runs(store) if (store / "runs").is_dir() else []
    for folder, record in (pair for run in runs if run.suite == SUITE for pair in run.records):
        wanted = record.attack.name == "badnets" and record.attack.params.get("pattern") == pattern
        if (
            not wanted
            or record.seed != seed
            or record.status != "ok"
            or record.defense.name != "none"
            or record.probe
            or record.sampler
        ):
            continue
        stages = Store(store)
        inputs: Mapping[str, str] = stages.manifest(folder.name)["input_keys"]
        generator = stages.manifest(inputs["target"])["input_keys"]["generator"]
        testbed = testbeds.build(record.testbed.name, record.testbed.params)
        attack = registry.build("attacks", record.attack.name, record.attack.params)
        assert isinstance(attack, Attack)
        return Trained(
            Generator.load(stages.folder(generator) / "generator"),
            attack,
            load_classifier(testbed, stages.folder(inputs["trigger_classifier"]), "cpu", 2),
            testbed.sampler.settings(),
        )
    raise UserError(
        f"{store} holds no finished cell of {pattern}, seed {seed}; `castlewalls run {SUITE} "
        f"--store {store}` makes it"
    )


def write(files: Mapping[str, str], output: Path, pattern: str) -> list[Path]:
    """Writes the plots of one trigger, and removes its stale ones."""
    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob(f"x0-{pattern}-*.svg"):
        if stale.name not in files:
            stale.unlink()
    written = []
    for name, svg in files.items():
        (output / name).write_text(svg, encoding="utf-8", newline="\n")
        written.append(output / name)
    return written


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.option(
    "--store",
    default="store",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Where the suite was run.",
)
@click.option(
    "--output", default=OUTPUT, type=click.Path(path_type=Path), help="The folder beside the page."
)
def main(store: Path, output: Path) -> None:
    """Draws every trigger that the store has."""
    try:
        for pattern in PATTERNS:
            for path in write(plots(pattern, trained_in(store, pattern)), output, pattern):
                click.echo(f"wrote {path}")
    except UserError as error:
        click.echo(f"x0_trajectories: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
