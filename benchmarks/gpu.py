"""``python -m benchmarks gpu``: whether the path of a GPU gives what it promises, and what it
costs, on this machine, without a network.

Where torch sees no CUDA device everything that a CPU can do is done there at tiny sizes, and what
only a GPU has is named as not measured. Weights are the embedded ones, or random in the published
shapes: neither time nor memory depends on them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import yaml
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from bench.diffusion.images import to_unit_range
from bench.diffusion.precision import autocast, exact_float32
from bench.diffusion.training import TrainingSettings
from bench.engine.provenance import provenance
from bench.engine.store import Store
from bench.errors import UserError
from bench.testbeds import load
from benchmarks import plain
from benchmarks.architectures import CIFAR10, STABLE_DIFFUSION, Architecture, Networks
from benchmarks.device import NO_CUDA, Device
from benchmarks.outline import (
    ATTENTIONS,
    FUSED,
    GIB,
    sampling,
    set_attention,
    training,
)
from benchmarks.resume import TINY
from benchmarks.steps import Stopwatch
from benchmarks.subject import SEED, Precision, Subject
from benchmarks.timing import Settings, interleaved, ratios

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "float16")
#: How many processes sample at once.
PROCESSES = (1, 2, 4)
WARM_UP = 2


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


# Same bits on the same device


def same_bits(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """A tiny suite run twice, in two stores; one set of samples in batches of other sizes."""
    section = "same bits on the same device"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.yaml"
        file.write_text(yaml.safe_dump(TINY))
        stores = [Store(Path(folder) / name) for name in ("first", "second")]
        for store in stores:
            _run(device, file, store.root)
        different, compared = differences(*stores)
    yield Finding(
        section=section,
        quantity=f"a suite run twice: files that differ, of {compared}",
        values=(float(len(different)),),
        note=", ".join(different[:3]),
    )
    subject, settings = Subject.make(), sizes.settings()
    generator = subject.testbed.base_generator().to(device.name)

    def drawn(batch: int, **changes: Any) -> Tensor:
        some = replace(settings, batch_size=batch)
        return subject.sample(generator, some, 16 // batch, lambda *_: None, **changes)

    usual = drawn(16, network_batch=8)
    yield Finding(
        section=section,
        quantity="samples drawn 16 or 8 at a time: the largest difference",
        values=(float((usual - drawn(8, network_batch=8)).abs().max()),),
        note="promised: 0",
    )
    yield Finding(
        section=section,
        quantity="network_batch 8 or 16: the largest difference",
        values=(float((usual - drawn(16, network_batch=16)).abs().max()),),
        note="part of the protocol: not promised to be 0",
    )


def _run(device: Device, suite: Path, store: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", str(suite), "--device", device.name]
    command += ["--store", str(store), "--no-report"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")


def differences(first: Store, second: Store) -> tuple[list[str], int]:
    """The files of all stages but records and model cards, which have times in them, that are not
    equal to the last byte in two stores, and how many were compared.
    """
    theirs = {manifest["key"]: manifest for manifest in second.manifests()}
    different, compared = [], 0
    for manifest in first.manifests():
        if manifest["stage"] in ("record", "measure"):
            continue
        for name, digest in manifest["files"].items():
            if name.endswith((".json", ".md", ".log", "log.txt")):
                continue
            compared += 1
            other = theirs.get(manifest["key"], {"files": {}})["files"].get(name)
            if other != digest:
                different.append(f"{manifest['stage']}/{name}")
    return different, compared


# Steps beside a plain diffusers loop


class Watch(Stopwatch):
    """A stopwatch that waits for the device at its two readings, and not in between."""

    def __init__(self, start: int, end: int, device: Device) -> None:
        self.device, self.end = device, end
        super().__init__(start)

    def __call__(self, done: int, *rest: object) -> None:
        if done in (self.start, self.end):
            self.device.synchronize()
        super().__call__(done, *rest)


def loops(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """Our training step and sampling step beside a plain diffusers loop, in each precision."""
    subject, settings = Subject.make(), sizes.settings()
    for precision in PRECISIONS:
        if precision == "float16" and not device.cuda:
            for what in ("training", "sampling"):
                yield not_measured("steps", f"{what} step, {precision}", NO_CUDA)
            continue
        trainings = {
            "ours": _our_training(subject, settings, device, precision),
            "plain": _plain_training(subject, settings, device, precision),
        }
        yield from _compared(trainings, sizes, f"training step, {precision}")
        samplings = {
            "ours": _our_sampling(subject, settings, device, precision),
            "plain": _plain_sampling(subject, settings, device, precision),
        }
        yield from _compared(samplings, sizes, f"sampling step, {precision}")


def _compared(
    contenders: dict[str, Callable[[], float]], sizes: Sizes, what: str
) -> Iterator[Finding]:
    for run in contenders.values():
        run()  # kernels are chosen and loaded
    seconds = interleaved(contenders, sizes.repetitions)
    for name, values in seconds.items():
        rates = tuple(sizes.batch / value for value in values)
        yield Finding(section="steps", quantity=f"{what}, {name}", unit="images/s", values=rates)
    yield Finding(
        section="steps",
        quantity=f"{what}, plain / ours",
        unit="ratio",
        values=ratios(seconds["plain"], seconds["ours"]),
    )


def _our_training(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    def run() -> float:
        steps = WARM_UP + settings.steps
        watch = Watch(WARM_UP, steps, device)
        generator = subject.testbed.base_generator()
        subject.train(generator, settings, steps, watch, device=device.name, precision=precision)
        return watch.per_step(settings.steps).wall

    return run


def _plain_training(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    images = to_unit_range(subject.poisoned.images)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    fold = subject.testbed.base_generator().fold
    attack = subject.attack
    folded = [
        pixel_unshuffle(pictures, fold).to(device.torch)
        for pictures in (images, attack.trigger_image(shape), attack.target_image(shape))
    ]
    poisoned = subject.poisoned.poisoned.to(device.torch)

    def run() -> float:
        generator = subject.testbed.base_generator()
        generator.unet.to(device.torch)
        steps = WARM_UP + settings.steps
        watch = Watch(WARM_UP, steps, device)
        plain.train(
            generator.unet,
            DDPMScheduler.from_config(generator.scheduler_config),
            folded[0],
            poisoned,
            folded[1],
            folded[2],
            steps=steps,
            batch_size=settings.batch_size,
            learning_rate=subject.training_settings(settings, 1).learning_rate,
            after_step=watch,
            precision=precision,
        )
        return watch.per_step(settings.steps).wall

    return run


def _our_sampling(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    generator = subject.testbed.base_generator().to(device.name)
    steps, batch = settings.num_inference_steps or 1, settings.batch_size

    def run() -> float:
        watch = Watch(0, steps, device)
        changes = {"precision": precision, "network_batch": batch}
        subject.sample(generator, settings, 1, watch, **changes)
        return watch.per_step(steps).wall

    return run


def _plain_sampling(
    subject: Subject, settings: Settings, device: Device, precision: Precision
) -> Callable[[], float]:
    generator = subject.testbed.base_generator()
    generator.unet.to(device.torch)
    scheduler = DDPMScheduler.from_config(generator.scheduler_config)
    steps, fold = settings.num_inference_steps or 1, generator.fold
    channels, height, width = generator.image_shape
    shape = (settings.batch_size, channels * fold**2, height // fold, width // fold)

    def run() -> float:
        watch = Watch(0, steps, device)
        plain.sample(generator.unet, scheduler, shape, steps, watch, precision)
        return watch.per_step(steps).wall

    return run


# The network alone


class Passes:
    """Forward passes of a network, and forward with backward, on the device."""

    def __init__(
        self, architecture: Architecture, device: Device, images: int, precision: str
    ) -> None:
        self.device, self.images, self.precision = device, images, precision
        self.networks: Networks = architecture.build(device.name)
        self.last()

    def last(self, layout: torch.memory_format = torch.channels_last) -> Passes:
        """In that layout of memory, as ours are."""
        self.networks.unet.to(memory_format=layout)
        return self

    def forward(self) -> Tensor:
        """Without gradients."""
        with torch.no_grad(), autocast(self.device.torch, self.precision):
            return self.networks.predict(self.images, self.device.name)

    def both(self) -> None:
        """Forward and backward."""
        with autocast(self.device.torch, self.precision):
            answer = self.networks.predict(self.images, self.device.name)
        loss: Any = answer.float().square().mean()
        loss.backward()

    def seconds(self, run: Callable[[], object], repetitions: int) -> tuple[float, ...]:
        """Of each repetition, after a first."""
        run()
        return tuple(self.device.seconds(run) for _ in range(repetitions))


def network(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The layout of memory, ``torch.compile``, CUDA graphs, and batches."""
    section = "network"
    passes = Passes(sizes.architecture, device, sizes.images, "bfloat16")
    eager = passes.seconds(passes.forward, sizes.repetitions)
    passes.last(torch.contiguous_format)
    contiguous = passes.seconds(passes.forward, sizes.repetitions)
    passes.last()
    words = f"forward of {sizes.images} images, bfloat16"
    for name, values in (("channels-last", eager), ("contiguous", contiguous)):
        rates = tuple(sizes.images / value for value in values)
        yield Finding(section=section, quantity=f"{words}, {name}", unit="images/s", values=rates)
    yield from _compiled(passes, eager, sizes)
    yield from _graphed(device, sizes)
    subject = Subject.make()
    generator = subject.testbed.base_generator().to(device.name)
    for batch in sizes.batches:
        some = replace(sizes.settings(), batch_size=batch)

        def draw(some: Settings = some, batch: int = batch) -> None:
            subject.sample(generator, some, 1, lambda *_: None, network_batch=batch)

        draw()
        values = tuple(batch * sizes.steps / device.seconds(draw) for _ in range(sizes.repetitions))
        yield Finding(
            section=section,
            quantity=f"sampling the small network, {batch} at once",
            unit="images/s a step",
            values=values,
        )


def _compiled(passes: Passes, eager: tuple[float, ...], sizes: Sizes) -> Iterator[Finding]:
    quantity = "torch.compile: eager / compiled"
    if not passes.device.cuda:  # where it takes minutes and a compiler
        yield not_measured("network", quantity, NO_CUDA)
        return
    untouched = passes.networks.unet
    passes.networks.unet = torch.compile(untouched)
    try:
        first = passes.device.seconds(passes.forward)
        values = passes.seconds(passes.forward, sizes.repetitions)
    except Exception as error:  # what is missing differs from machine to machine
        words = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        yield not_measured("network", quantity, words)
        return
    finally:
        passes.networks.unet = untouched
    yield Finding(
        section="network", quantity="torch.compile: the first call", unit="s", values=(first,)
    )
    yield Finding(section="network", quantity=quantity, unit="ratio", values=ratios(eager, values))


def _graphed(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The small network, whose kernels are shorter than it takes to launch them."""
    quantity = "CUDA graph, small network: eager / replayed"
    if not device.cuda:
        yield not_measured("network", quantity, NO_CUDA)
        return
    config = dict(load("digits-ddpm").base_generator().unet.config)
    small = {name: value for name, value in config.items() if not name.startswith("_")}
    for batch in sizes.batches:
        passes = Passes(Architecture(small), device, batch, "float32")
        config_ = passes.networks.unet.config
        shape = (batch, config_.in_channels, config_.sample_size, config_.sample_size)
        x = torch.randn(shape, device=device.torch).to(memory_format=torch.channels_last)
        timesteps = torch.zeros(batch, dtype=torch.long, device=device.torch)

        def run(
            unet: Any = passes.networks.unet, x: Tensor = x, timesteps: Tensor = timesteps
        ) -> Tensor:
            with torch.no_grad():
                answer: Tensor = unet(x, timesteps).sample
                return answer

        eager = passes.seconds(run, sizes.repetitions)
        graphed = passes.seconds(device.captured(run), sizes.repetitions)
        yield Finding(
            section="network",
            quantity=f"{quantity}, {batch} at once",
            unit="ratio",
            values=ratios(eager, graphed),
        )


def share(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The part of a sampling step and of a training step that the network alone takes."""
    subject, settings = Subject.make(), sizes.settings()
    generator = subject.testbed.base_generator().to(device.name)
    batch = sizes.batch
    x = torch.randn((batch, *generator.noise_shape), device=device.torch)
    x = x.contiguous(memory_format=torch.channels_last)
    timesteps = torch.zeros(batch, dtype=torch.long, device=device.torch)

    def forward() -> None:
        with torch.no_grad():
            generator.predict_noise(x, timesteps)

    def both() -> None:
        loss: Any = generator.predict_noise(x, timesteps).square().mean()
        loss.backward()

    step = _our_sampling(subject, settings, device, "float32")
    train = _our_training(subject, settings, device, "float32")
    for run in (forward, both, step, train):
        run()
    seconds = interleaved(
        {
            "forward": lambda: device.seconds(forward),
            "step": step,
            "both": lambda: device.seconds(both),
            "train": train,
        },
        sizes.repetitions,
    )
    for what, part, whole in (("sampling", "forward", "step"), ("training", "both", "train")):
        yield Finding(
            section="share of time in the network",
            quantity=f"{what}, float32, {batch} images: the network alone / a step",
            unit="ratio",
            values=ratios(seconds[part], seconds[whole]),
        )


# Memory


def memory(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """The peak of a forward and backward pass beside what is calculated, and Stable Diffusion."""
    for precision in ("float32", "bfloat16"):
        device.forget_peak()
        passes = Passes(sizes.architecture, device, sizes.images, precision)
        passes.both()
        peak, what = device.peak()
        settings = TrainingSettings(steps=1, batch_size=sizes.images, precision=precision)
        calculated = training(sizes.architecture, settings)
        weights = sum(weight.numel() for weight in passes.networks.unet.parameters()) * 4
        yield Finding(
            section="memory",
            quantity=f"forward and backward of {sizes.images} images, {precision}",
            unit="GiB",
            values=(peak,),
            note=f"measured, {what}; calculated for tensors: weights {weights / GIB:.2f}, kept for "
            f"backward {calculated.kept / GIB:.2f}",
        )
        del passes
    yield from _stable_diffusion(device)


def _stable_diffusion(device: Device) -> Iterator[Finding]:
    """At the declared shapes, with random weights: a training step with and without gradient
    checkpointing, and a call of sampling with each kind of attention.
    """
    testbed = load("imagenette-sd")
    declared = replace(testbed.training_settings("finetune"), steps=1)
    for again in (False, True):
        quantity = f"Stable Diffusion, training, gradient_checkpointing: {str(again).lower()}"
        if not device.cuda:
            yield not_measured("memory", quantity, NO_CUDA)
            continue
        settings = replace(declared, gradient_checkpointing=again)
        estimate = training(STABLE_DIFFUSION, settings)
        step = partial(_sd_step, device, settings)
        yield _peak_of(device, quantity, estimate.peak, step)
    sampler = testbed.sampler.settings()
    for attention in ATTENTIONS:
        quantity = f"Stable Diffusion, sampling, attention {attention}"
        if not device.cuda:
            yield not_measured("memory", quantity, NO_CUDA)
            continue
        estimate = sampling(
            STABLE_DIFFUSION,
            sampler.precision,
            sampler.network_batch,
            attention=attention,
            decoded=False,
        )

        def draw(attention: str = attention) -> None:
            passes = Passes(STABLE_DIFFUSION, device, sampler.network_batch, sampler.precision)
            if attention != FUSED:
                set_attention(passes.networks.unet, attention)
            passes.forward()

        yield _peak_of(device, quantity, estimate.peak, draw)


def _peak_of(device: Device, quantity: str, calculated: int, run: Callable[[], object]) -> Finding:
    device.forget_peak()
    try:
        run()
        device.synchronize()
    except torch.OutOfMemoryError:
        words = f"out of memory, where {calculated / GIB:.1f} GiB were calculated"
        return not_measured("memory", quantity, words)
    return Finding(
        section="memory",
        quantity=quantity,
        unit="GiB",
        values=(device.peak()[0],),
        note=f"measured; calculated: {calculated / GIB:.1f}",
    )


def _sd_step(device: Device, settings: TrainingSettings) -> None:
    """A step of the optimiser, two pieces of a batch: the second meets the first's gradients."""
    pieces = settings.accumulation_steps
    passes = Passes(STABLE_DIFFUSION, device, settings.batch_size // pieces, settings.precision)
    unet = passes.networks.unet.train()
    if settings.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    average = [weight.detach().clone() for weight in unet.parameters()]
    optimizer = torch.optim.AdamW(unet.parameters())
    for _ in range(2):
        for _ in range(min(2, pieces)):
            with torch.no_grad(), autocast(device.torch, settings.precision):
                passes.networks.encode(passes.images, device.name)
            passes.both()
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, [weight.detach() for weight in unet.parameters()], 0.1)


# Several stages at once


def packing(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """Processes that sample with the small network at once: what all of them do together, over what
    one does alone.
    """
    alone = 0.0
    for count in PROCESSES:
        rate, peak = together(count, sizes)
        alone = alone or rate
        note = f"{peak:.2f} GiB each, {device.peak()[1]}"
        yield Finding(
            section="several stages at once",
            quantity=f"{count} process(es) on one device, all together / one",
            unit="ratio",
            values=(rate / alone,),
            note=note,
        )


def together(count: int, sizes: Sizes) -> tuple[float, float]:
    """Images a second of ``count`` processes at once, start-up left out, and the memory of the
    largest, in GiB.
    """
    arguments = [str(number) for number in (sizes.batch, sizes.steps, sizes.repetitions)]
    command = [sys.executable, "-m", "benchmarks.gpu_child", *arguments]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    try:
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline().strip() != "ready":
                raise UserError("a process that was to sample beside others ended")
        answers = []
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            answers.append(json.loads(child.communicate()[0]))
    finally:
        for child in children:
            child.kill()
            child.wait()
    spent = max(one["ended"] for one in answers) - min(one["began"] for one in answers)
    images = count * sizes.batch * sizes.repetitions
    return images / spent, max(one["peak"] for one in answers)


SECTIONS = {
    "bits": same_bits,
    "steps": loops,
    "network": network,
    "share": share,
    "memory": memory,
    "packing": packing,
}


def lines(findings: Sequence[Finding], device: str) -> list[str]:
    """As Markdown."""
    text = [f"Measured on: {device}."]
    section = ""
    for one in findings:
        if one.section != section:
            section = one.section
            text += ["", f"{section}:", "", "| quantity | value | range | unit | |"]
            text.append("| --- | --- | --- | --- | --- |")
        middle = sorted(one.values)[len(one.values) // 2] if one.values else None
        value = "" if middle is None else f"{middle:.3g}"
        spread = f"{min(one.values):.3g} to {max(one.values):.3g}" if len(one.values) > 1 else ""
        text.append(f"| {one.quantity} | {value} | {spread} | {one.unit} | {one.note} |")
    return text


def measure(names: Sequence[str], device: Device, sizes: Sizes) -> list[Finding]:
    """All findings of the sections of these names, in their order."""
    exact_float32()
    torch.manual_seed(SEED)
    findings: list[Finding] = []
    for name, section in SECTIONS.items():
        if name in names:
            began = time.monotonic()
            findings += section(device, sizes)
            click.echo(f"{name}: {time.monotonic() - began:.0f} s", err=True)
    return findings


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "names", nargs=-1, type=click.Choice([*SECTIONS]), metavar=f"[{'|'.join(SECTIONS)}]..."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
def main(names: Sequence[str], as_json: bool) -> None:
    """The path of a GPU, proved and measured on this machine, without a network. Without names, all
    sections. Without a GPU, on the CPU at tiny sizes.

    \b
    python -m benchmarks gpu
    python -m benchmarks gpu bits memory --json
    """
    device = Device.here()
    try:
        findings = measure(names or [*SECTIONS], device, Sizes.of(device))
    except UserError as error:
        raise SystemExit(f"benchmarks: {error}") from error
    if as_json:
        document = {
            "device": device.describe(),
            "machine": provenance(),
            "findings": [asdict(one) for one in findings],
        }
        click.echo(json.dumps(document, indent=1, allow_nan=False))
    else:
        click.echo("\n".join(lines(findings, device.describe())))
