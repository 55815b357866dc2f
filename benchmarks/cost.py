"""``python -m benchmarks cost``: what a seed of a suite at paper scale costs on an H100.
Calculated, without data, weights or a GPU.

The stages, their images and their steps are those that the planner plans for the suite; operations
and bytes are counted on the ``meta`` device (:mod:`benchmarks.outline`). Assumed is what no count
gives: how fast a card works (:data:`MEASURED`, :data:`TERABYTES`). What the plan has beside
trainings and samples (features, measurements, a defender's own loops) is listed and not counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest.mock import patch

import click

from bench import planner
from bench.artefacts.probes import Probe, requested_count
from bench.contracts.attack import TrainingAttack
from bench.diffusion.sampling import SamplerSettings, images_at_once
from bench.diffusion.training import TrainingSettings
from bench.durations import images_through
from bench.engine.graph import Plan, Stage
from bench.engine.schedule import longest_chain
from bench.errors import UserError
from bench.registry import build, use
from bench.samplers import settings_of
from bench.stages.building import testbed_of
from bench.stages.table import STAGES
from bench.suite import load_suite
from bench.testbeds.testbed import Testbed
from benchmarks.architectures import (
    CELEBAHQ,
    CIFAR10,
    CIFAR10_CLASSES,
    STABLE_DIFFUSION,
    Architecture,
    architecture_of,
)
from benchmarks.growth import simulated
from benchmarks.outline import (
    ATTENTIONS,
    GIB,
    MARGIN,
    Estimate,
    noise_bytes,
    sampling,
    training,
)

#: Measured on one H100 by ``python -m benchmarks gpu published``: 10^12 operations a second of
#: training and of sampling, our loops around the network included. float32 is without TF32.
MEASURED = {
    (CIFAR10, "float32"): (21.8, 17.9),
    (CIFAR10, "bfloat16"): (61.6, 74.4),
    (CIFAR10, "float16"): (64.1, 74.6),
    (CELEBAHQ, "bfloat16"): (75.8, 64.0),
    (CIFAR10_CLASSES, "float16"): (41.6, 43.9),
    (STABLE_DIFFUSION, "bfloat16"): (102.0, 130.0),
    (STABLE_DIFFUSION, "float16"): (93.1, 151.0),
}
_HALVES = {"bfloat16": "float16", "float16": "bfloat16"}
#: Assumed of its memory, in 10^12 bytes a second, two thirds of what it has at most: for noise.
TERABYTES = 2.0
#: GiB of the cards that are sold as of so many GB.
CARDS = (24, 40, 80)
GPUS = (1, 2, 8)
DAY = 24.0
SUITES = ("paper-baddiffusion-day-cifar10", "paper-baddiffusion-day-celebahq")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Stages that cost the same. ``images``: through the network in each, steps counted;
    ``hours``: of each, of which ``noise_hours`` for noise; ``peak``: bytes.
    """

    what: str
    stages: int
    images: int
    gigaflops: float
    hours: float
    noise_hours: float
    peak: int


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one seed of a suite. ``hours``: on so many GPUs; ``chain``: on any number of them;
    ``uncounted``: stages that are not in it, by name.
    """

    suite: str
    seed: int
    groups: tuple[Group, ...]
    hours: dict[int, float]
    chain: float
    uncounted: dict[str, int]


def planned(suite: str) -> Plan:
    """The first seed of a suite, with stand-ins for the files that its testbeds name."""

    def stand_ins(testbed: Testbed) -> dict[str, str]:
        return {name: f"a stand-in for {name}" for name in testbed.parts()}

    registry = use()
    chosen = load_suite(suite, registry)
    chosen = chosen.only(registry, seeds=[chosen.seeds[0]])
    with patch.object(planner.stages, "fingerprints", stand_ins):
        return planner.make_plan(chosen, registry, STAGES, "cuda")


def cost(suite: str) -> Cost:
    """What the first seed of ``suite`` costs. Raises :class:`UserError` for a suite whose networks
    are not known.
    """
    plan = planned(suite)
    counted: dict[str, Group] = {}
    for key, stage in plan.stages.items():
        group = {"train": _training, "sample": _sampling}.get(stage.name, _uncounted)(stage)
        if group is not None:
            counted[key] = group
    seconds = {key: 3600 * counted[key].hours if key in counted else 0.0 for key in plan.stages}
    alike: dict[Group, int] = {}
    for group in counted.values():
        alike[group] = alike.get(group, 0) + 1
    other: dict[str, int] = {}
    for key, stage in plan.stages.items():
        if key not in counted:
            other[stage.name] = other.get(stage.name, 0) + 1
    seeds = {stage.params["seed"] for stage in plan.stages.values() if "seed" in stage.params}
    return Cost(
        suite=plan.suite,
        seed=min(seeds),
        groups=tuple(replace(group, stages=count) for group, count in alike.items()),
        hours={count: simulated(plan, seconds, count) / 3600 for count in GPUS},
        chain=longest_chain(plan.stages, seconds) / 3600,
        uncounted=other,
    )


def _uncounted(stage: Stage) -> None:
    return None


def _attack_of(stage: Stage) -> TrainingAttack:
    named = stage.params["attack"]
    attack = build("attacks", named["name"], named["params"])
    assert isinstance(attack, TrainingAttack)
    return attack


def settings_of_training(stage: Stage) -> TrainingSettings:
    """As :mod:`bench.stages.train` trains."""
    attack = _attack_of(stage)
    settings = testbed_of(stage.params).training_settings(attack.scheme)
    return replace(settings, steps=attack.training_steps or settings.steps)


def images_of_sampling(stage: Stage) -> tuple[int, SamplerSettings]:
    """Images through the network, as :mod:`bench.stages.sample` draws, and how they are drawn."""
    testbed = testbed_of(stage.params)
    settings = settings_of(testbed, stage.params)
    return images_through(testbed, Probe(**stage.params["draws"]), settings), settings


def _training(stage: Stage) -> Group:
    testbed, settings = testbed_of(stage.params), settings_of_training(stage)
    architecture = architecture_of(testbed)
    estimate = training(architecture, replace(settings, steps=1))
    images = settings.steps * settings.batch_size
    flops = images * estimate.operations
    if _attack_of(stage).has_teacher:
        flops *= 4 / 3  # whose forward pass is a third of a forward and a backward pass
    return Group(
        what=f"training, {testbed.name}, {settings.precision}",
        stages=1,
        images=images,
        gigaflops=estimate.operations / 1e9,
        hours=flops / speeds(architecture, settings.precision)[0] / 3600,
        noise_hours=0.0,
        peak=estimate.peak,
    )


def _sampling(stage: Stage) -> Group:
    testbed = testbed_of(stage.params)
    images, settings = images_of_sampling(stage)
    architecture = architecture_of(testbed)
    estimate = sampling(
        architecture,
        settings.precision,
        settings.network_batch,
        at_once=images_at_once(settings),
    )
    drawn = requested_count(testbed, Probe(**stage.params["draws"]))
    noisy = drawn * settings.num_inference_steps if settings.stochastic else drawn
    noise = noisy * noise_bytes(architecture.drawn) / (TERABYTES * 1e12) / 3600
    flops = images * estimate.operations + drawn * estimate.decoding
    network = flops / speeds(architecture, settings.precision)[1] / 3600
    steps = f"{settings.name}, {settings.num_inference_steps} steps"
    return Group(
        what=f"{drawn:,} samples, {testbed.name}, {steps}, {settings.precision}",
        stages=1,
        images=images,
        gigaflops=estimate.operations / 1e9,
        hours=network + noise,
        noise_hours=noise,
        peak=estimate.peak,
    )


def speeds(architecture: Architecture, precision: str) -> tuple[float, float]:
    """FLOP a second in training and in sampling: measured, or else of the other half precision, or
    else of CIFAR-10's network.
    """
    for known in (
        (architecture, precision),
        (architecture, _HALVES.get(precision, precision)),
        (CIFAR10, precision),
    ):
        if known in MEASURED:
            training_speed, sampling_speed = MEASURED[known]
            return 1e12 * training_speed, 1e12 * sampling_speed
    raise UserError(f"no speed is known for {precision}")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A way to train or to draw, and the bytes that it takes."""

    what: str
    estimate: Estimate


def choices_of_training(testbed: Testbed, settings: TrainingSettings) -> list[Choice]:
    """A training's batch whole and in ever more pieces, with and without gradient checkpointing,
    and, of a text-to-image generator, of adapters alone.
    """
    architecture, batch = architecture_of(testbed), settings.batch_size
    pieces = [count for count in (1, 4, 8, 16) if batch % count == 0]
    ways: dict[str, dict[str, Any]] = {
        "": {},
        ", gradient_checkpointing": {"gradient_checkpointing": True},
    }
    if architecture.text is not None:
        ways[", training: lora"] = {"lora_rank": 4}
    return [
        Choice(
            what=f"accumulation_steps: {count} ({batch // count} images at once){words}",
            estimate=training(
                architecture, replace(settings, steps=1, accumulation_steps=count, **changes)
            ),
        )
        for words, changes in ways.items()
        for count in pieces
    ]


def choices_of_sampling(testbed: Testbed, settings: SamplerSettings) -> list[Choice]:
    """Smaller batches of the network; of a text-to-image generator, also its attention fused, plain
    and sliced, without the decoder.
    """
    architecture, full = architecture_of(testbed), settings.network_batch
    at_once = images_at_once(settings)
    choices = [
        Choice(
            what=f"network_batch: {images}",
            estimate=sampling(architecture, settings.precision, images, at_once=at_once),
        )
        for images in dict.fromkeys((full, max(1, full // 4)))
    ]
    if architecture.text is None:
        return choices
    return choices + [
        Choice(
            what=f"network_batch: {full}, the U-Net alone, attention {attention}",
            estimate=sampling(
                architecture,
                settings.precision,
                full,
                at_once=at_once,
                attention=attention,
                decoded=False,
            ),
        )
        for attention in ATTENTIONS
    ]


def memory(suite: str) -> dict[str, list[Choice]]:
    """What trainings and samples of a suite take under other settings, by what is declared."""
    plan, by_use = planned(suite), dict[str, list[Choice]]()
    for stage in plan.stages.values():
        if stage.name == "train":
            testbed, trained = testbed_of(stage.params), settings_of_training(stage)
            named = f"training, {testbed.name}, {trained.precision}, batch {trained.batch_size}"
            if named not in by_use:
                by_use[named] = choices_of_training(testbed, trained)
        elif stage.name == "sample":
            testbed = testbed_of(stage.params)
            drawn = settings_of(testbed, stage.params)
            named = f"sampling, {testbed.name}, {drawn.precision}"
            if named not in by_use:
                by_use[named] = choices_of_sampling(testbed, drawn)
    return by_use


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown, a line each."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def lines_of_cost(one: Cost) -> list[str]:
    """The cost of a suite as Markdown."""
    heads = "stage|stages|images through the network, each|GFLOP an image|hours, each|hours|peak"
    rows = [
        (
            group.what,
            f"{group.stages}",
            f"{group.images / 1e6:.3g} million",
            f"{group.gigaflops:,.1f}",
            f"{group.hours:.2f}",
            f"{group.stages * group.hours:.1f}",
            f"{group.peak / GIB:.1f} GiB",
        )
        for group in one.groups
    ]
    total = one.hours[1]
    noise = sum(group.stages * group.noise_hours for group in one.groups)
    rows.append(("**all of them**", "", "", "", "", f"**{total:.1f}**", ""))
    words = ", ".join(f"{hours:.1f} h on {count}" for count, hours in one.hours.items())
    others = ", ".join(f"{count} {name}" for name, count in sorted(one.uncounted.items()))
    return [
        f"`{one.suite}`, seed {one.seed}, calculated:",
        "",
        *table(heads.split("|"), rows),
        "",
        f"H100s: {words}, {one.chain:.1f} h on any number. Noise: {noise:.2f} h of it.",
        f"Not counted: {others}.",
    ]


def lines_of_memory(by_use: dict[str, list[Choice]]) -> list[str]:
    """Memory as Markdown."""
    heads = ("setting", "standing", "kept for backward", "peak", "fits")
    lines: list[str] = []
    for named, choices in by_use.items():
        rows = [
            (
                choice.what,
                f"{choice.estimate.standing / GIB:.1f} GiB",
                f"{choice.estimate.kept / GIB:.1f} GiB" if choice.estimate.kept else "",
                f"{choice.estimate.peak / GIB:.1f} GiB",
                ", ".join(f"{card} GB" for card in CARDS if choice.estimate.fits(card)) or "none",
            )
            for choice in choices
        ]
        lines += ["", f"{named}, calculated:", "", *table(heads, rows)]
    return lines[1:]


def assumed() -> str:
    """What is assumed, in one paragraph."""
    names = {
        CIFAR10: "cifar10-ddpm",
        CELEBAHQ: "celebahq-ddpm",
        CIFAR10_CLASSES: "cifar10-cfg",
        STABLE_DIFFUSION: "Stable Diffusion",
    }
    measured = "; ".join(
        f"{names[architecture]}, {precision}, {training_speed:g} and {sampling_speed:g}"
        for (architecture, precision), (training_speed, sampling_speed) in MEASURED.items()
    )
    return (
        "Calculated from counts and from speeds that one H100 had in training and in sampling, in "
        f"TFLOP/s: {measured}; others as the nearest of these. Assumed for noise: {TERABYTES:g} "
        f"TB/s. A card has room for what takes {1 - MARGIN:.0%} of it."
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("suites", nargs=-1, metavar="[SUITE]...")
@click.option("--memory", "with_memory", is_flag=True, help="Also under other settings.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def main(suites: Sequence[str], with_memory: bool, as_json: bool) -> None:
    """What the first seed of a SUITE costs on an H100, a name or a file; without one, those that
    shall take less than a day. Calculated: no data, weights or GPU are needed.

    \b
    python -m benchmarks cost paper-baddiffusion-clipping
    python -m benchmarks cost paper-bibaddiff-imagenette --memory
    """
    try:
        costs = [cost(suite) for suite in suites or SUITES]
        by_use = [memory(suite) if with_memory else {} for suite in suites or SUITES]
    except UserError as error:
        raise SystemExit(f"benchmarks: {error}") from error
    if as_json:
        document = [
            asdict(one) | {"memory": {name: [asdict(c) for c in cs] for name, cs in more.items()}}
            for one, more in zip(costs, by_use, strict=True)
        ]
        click.echo(json.dumps({"assumed": assumed(), "suites": document}, indent=1))
        return
    click.echo(assumed())
    for one, more in zip(costs, by_use, strict=True):
        click.echo("\n" + "\n".join(lines_of_cost(one)))
        if more:
            click.echo("\n" + "\n".join(lines_of_memory(more)))
