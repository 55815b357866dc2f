"""Training a generator: one loop for honest and compromised models, on a CPU, a GPU, or several
GPUs through accelerate.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from bench.diffusion.compiling import compiled
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_unit_range
from bench.diffusion.lora import add_adapters, fuse_adapters
from bench.diffusion.noise import stream_seed, torch_stream
from bench.diffusion.process import Process
from bench.diffusion.replay import TrainingGraph, replayable
from bench.diffusion.resuming import Checkpoints, optimizer_tensors, restore_optimizer

if TYPE_CHECKING:
    from accelerate import Accelerator

Rows = Mapping[str, Tensor]
#: (x_t, timesteps) -> noise; an optional third argument replaces the rows' labels as the condition.
PredictNoise = Callable[..., Tensor]
#: (predict_noise, rows, noise, timesteps, schedule) -> scalar; then the teacher, if there is one.
Loss = Callable[..., Tensor]
Progress = Callable[[int, int, str], None]

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
#: With loss scaling, fewer than this many steps in a row may have a loss that is not finite. The
#: scaler starts high, and skips each such step and halves: a few are normal at the start of float16
#: training, but this many in a row mean that it has diverged.
NON_FINITE_STEPS = 10
#: The largest training set that is copied to a GPU as a whole.
BYTES_ON_A_GPU = 2**30


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """``steps`` optimiser steps of ``batch_size`` rows in total (over all devices and accumulation
    steps).

    ``schedule``: of the learning rate, after ``warmup_steps`` of linear warm-up. ``ema_decay``:
    ``None`` for the raw weights. ``precision``: of the network's forward and backward; schedules,
    loss and optimiser stay float32. float16 has loss scaling on a GPU, and is float32 on a CPU.
    ``accumulation_steps``: the number of equal pieces of a batch that go through the network one
    after another, to save memory; ``gradient_checkpointing``: activations are recomputed in the
    backward pass instead of stored, which takes about a third more time. Both change the gradient
    by rounding only, since rows, timesteps and noise are drawn for the whole batch; an attack's
    loss that makes something of its rows' noise makes it of a piece's, as the attack says.
    ``label_dropout``: the probability that a class-conditional generator gets the null label
    instead of a row's own (classifier-free guidance, Ho and Salimans 2022, arXiv 2207.12598).
    ``lora_rank``: of the adapters that are trained instead of the network
    (:mod:`bench.diffusion.lora`); ``None``: the network itself is trained.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "one_cycle"] = "cosine"
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    gradient_clip: float = 1.0
    ema_decay: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    accumulation_steps: int = 1
    gradient_checkpointing: bool = False
    horizontal_flip: bool = False
    label_dropout: float = 0.0
    lora_rank: int | None = None


def denoising_loss(
    predict_noise: PredictNoise,
    images: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    process: Process,
) -> Tensor:
    """DDPM's simple loss: mean over rows and pixels of (e - e_theta(x_t, t))^2 (Ho et al. 2020, eq.
    14), with x_t and e as ``process`` defines them.

    images: (n, c, h, w) in [-1, 1]; noise: (n, c, h, w), standard normal; timesteps: (n,) int64 in
    0..T-1.
    """
    noisy = process.noised(images, noise, timesteps)
    regression = process.regression(images, noise, timesteps)
    return (predict_noise(noisy, timesteps) - regression).square().mean()


def learning_rate_factor(settings: TrainingSettings, step: int) -> float:
    """The factor of the learning rate at ``step``: linear warm-up, then the schedule, in [0, 1]."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    share = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    if settings.schedule == "one_cycle" and share < 0.1:
        return 0.04 + 0.96 * share / 0.1
    share = (share - 0.1) / 0.9 if settings.schedule == "one_cycle" else share
    return 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A part of a batch that goes through the network at once: ``rows`` with encoded ``images``,
    and the random draws for them.
    """

    rows: dict[str, Tensor]
    labels: Tensor | None
    noise: Tensor
    timesteps: Tensor


def _near(rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """``rows`` where the network is, if a GPU has the room: a data set of bytes is small."""
    size = sum(values.numel() * values.element_size() for values in rows.values())
    if device.type == "cpu" or size > BYTES_ON_A_GPU:
        return dict(rows)
    return {name: values.to(device) for name, values in rows.items()}


class _Batches:
    """Draws a process's share of every batch as a whole and divides it into pieces, so that their
    number changes no random number.
    """

    def __init__(
        self,
        generator: Generator,
        rows: Rows,
        settings: TrainingSettings,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        pieces = settings.accumulation_steps * accelerator.num_processes
        if settings.batch_size % pieces:
            raise ValueError(
                f"batch_size must be a multiple of {pieces} pieces, got {settings.batch_size}"
            )
        self.generator, self.settings = generator, settings
        self.device, self.autocast = accelerator.device, accelerator.autocast
        self.rows = _near(rows, self.device)
        self.share = settings.batch_size // accelerator.num_processes
        self.draw = torch_stream(seed, "training", accelerator.process_index)
        #: Of the noise, which a CPU would take longer to draw than a GPU to learn from.
        self.noise_draw = self.draw
        if self.device.type == "cuda" and torch.cuda.is_available():
            own = stream_seed(seed, "training noise", accelerator.process_index)
            self.noise_draw = torch.Generator(self.device).manual_seed(own)
        self.order = torch.empty(0, dtype=torch.int64)

    def next(self) -> list[_Piece]:
        """One batch."""
        share, pieces, draw = self.share, self.settings.accumulation_steps, self.draw
        while len(self.order) < share:
            self.order = torch.cat(
                [self.order, torch.randperm(len(self.rows["images"]), generator=draw)]
            )
        chosen, self.order = self.order[:share], self.order[share:]
        batch = {
            name: values[chosen.to(values.device)].to(self.device)
            for name, values in self.rows.items()
        }
        batch["images"] = to_unit_range(batch["images"])
        if self.settings.horizontal_flip:
            flip = torch.rand(share, 1, 1, 1, generator=draw).to(self.device) < 0.5
            batch["images"] = torch.where(flip, batch["images"].flip(-1), batch["images"])
        with self.autocast():
            encoded = [
                self.generator.encode(images, draw) for images in batch["images"].chunk(pieces)
            ]
        batch["images"] = torch.cat(encoded) if len(encoded) > 1 else encoded[0]
        labels = self._conditioning_labels(batch)
        drawing = self.noise_draw
        noise = torch.randn(batch["images"].shape, generator=drawing, device=drawing.device)
        noise = noise.to(self.device)
        timesteps = torch.randint(len(self.generator.schedule), (share,), generator=draw).to(
            self.device
        )
        size = share // pieces
        return [
            _Piece(
                rows={name: values[first : first + size] for name, values in batch.items()},
                labels=None if labels is None else labels[first : first + size],
                noise=noise[first : first + size],
                timesteps=timesteps[first : first + size],
            )
            for first in range(0, share, size)
        ]

    def _conditioning_labels(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The network's labels: the rows' own, or the null label where one is dropped."""
        classes, labels = self.generator.classes, batch.get("labels")
        if classes is None or labels is None:
            return None
        if not self.settings.label_dropout:
            return labels
        dropped = (torch.rand(len(labels), generator=self.draw) < self.settings.label_dropout).to(
            self.device
        )
        return torch.where(dropped, classes, labels)


class Beside(Protocol):
    """What is learnt beside the network: ``tensors`` by name, which :meth:`learn` replaces. It is
    called once before every step with what a :data:`Loss` takes.
    """

    tensors: dict[str, Tensor]

    def learn(self, *drawn: Any) -> None: ...


class _WeightAverage:
    """An exponential moving average of the weights; does nothing if ``decay`` is ``None``."""

    def __init__(self, trained: list[torch.nn.Parameter], decay: float | None) -> None:
        self.trained, self.decay = trained, decay
        self.values = [parameter.detach().clone() for parameter in trained] if decay else []

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Updates the average. The decay grows to its value over the first steps, so that short
        runs forget their initial weights.
        """
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(
                self.values, [parameter.detach() for parameter in self.trained], 1 - decay
            )

    @torch.no_grad()
    def settle(self) -> None:
        """Replaces the weights by their average."""
        if self.decay:
            for parameter, value in zip(self.trained, self.values, strict=True):
                parameter.copy_(value)


def train(
    generator: Generator,
    rows: Rows,
    loss: Loss,
    settings: TrainingSettings,
    seed: int,
    *,
    device: str = "cpu",
    teacher: Generator | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
    beside: Beside | None = None,
) -> list[float]:
    """Trains ``generator`` in place, moved to ``device`` with all its parts; returns the loss of
    every step.

    ``rows``: tensors of equal length, including ``images``, uint8 (n, c, h, w), which ``loss`` gets
    in [-1, 1]. Rows are drawn without replacement within an epoch, by each process for
    itself where there are several. A class-conditional generator gets the batch's ``labels``
    automatically; ``loss`` need not pass them. Batches, timesteps, noise and the network's dropout
    come from streams of ``seed``. ``teacher``: another generator,
    frozen, that ``loss`` may call like the one in training. ``checkpoints``: where the training
    saves its progress and resumes from, to the same bits on the same device; not used with several
    processes. ``beside``: what is learnt beside the network. Raises ``FloatingPointError`` if the
    loss is not finite: at once, or, with loss scaling (float16 on a GPU), which skips such steps,
    after :data:`NON_FINITE_STEPS` in a row.
    """
    accelerator = _accelerator(settings, device)
    run = _Run(generator, rows, loss, settings, seed, accelerator, beside)
    if teacher is not None:
        teacher.unet.requires_grad_(False).eval()
        run.teacher = teacher.to(accelerator.device)
    resumable = checkpoints if accelerator.num_processes == 1 else None
    with _own_dropout(seed, accelerator.process_index):
        for step in range(run.resume(resumable) if resumable else 0, settings.steps):
            run.step(step)
            if resumable and (step + 1) % resumable.every == 0 and step + 1 < settings.steps:
                run.write(resumable)
            if progress:
                progress(step + 1, settings.steps, "training steps")
    run.average.settle()
    run.graph = None  # or its memory would outlive the training
    _finish(generator, accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False), settings)
    accelerator.free_memory()
    return run.losses


class _Run:
    """A training between two steps: everything the next one depends on."""

    def __init__(
        self,
        generator: Generator,
        rows: Rows,
        loss: Loss,
        settings: TrainingSettings,
        seed: int,
        accelerator: Accelerator,
        beside: Beside | None,
    ) -> None:
        self.generator, self.loss, self.settings, self.accelerator = (
            generator,
            loss,
            settings,
            accelerator,
        )
        network = _prepared_network(generator, settings, seed, accelerator.device)
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer_class = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        options: dict[str, Any] = {}
        if accelerator.device.type == "cuda" and torch.cuda.is_available():
            # Otherwise a step asks each weight on its own, for longer than a small network trains.
            options["fused"] = True
        optimizer = optimizer_class(
            self.trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, **options
        )
        self.wrapped, self.optimizer = accelerator.prepare(network, optimizer)
        self.average = _WeightAverage(self.trained, settings.ema_decay)
        self.batches = _Batches(generator, rows, settings, seed, accelerator)
        recordable = _recordable(generator, settings, accelerator)
        # A recorded network answers one loss, not one that asks it several times in a row.
        self.graph = TrainingGraph(self.wrapped) if recordable and beside is None else None
        self.asked = compiled(self.wrapped) if generator.compiled else self.graph or self.wrapped
        self.beside = beside
        if beside is not None:
            beside.tensors = {
                name: value.to(accelerator.device) for name, value in beside.tensors.items()
            }
        self.labels: Tensor | None = None  # of the current piece
        self.teacher: Generator | None = None
        self.losses: list[float] = []
        shapes = [list(parameter.shape) for parameter in self.trained]
        described = [vars(settings), seed, len(rows["images"]), accelerator.device.type, shapes]
        self.identity = hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def predict_noise(
        self, x: Tensor, timesteps: Tensor, condition: Tensor | tuple[str, ...] | None = None
    ) -> Tensor:
        """The network's prediction in float32 for ``condition``, by default the piece's labels."""
        self.generator.calls += len(x)
        requested = self.labels if condition is None else condition
        x = x.contiguous(memory_format=torch.channels_last)
        return self.generator.answer(self.asked, x, timesteps, requested)

    @torch.no_grad()
    def taught(
        self, x: Tensor, timesteps: Tensor, condition: Tensor | tuple[str, ...] | None = None
    ) -> Tensor:
        """Like :meth:`predict_noise`, by the teacher."""
        teacher = self.teacher
        assert teacher is not None
        requested = self.labels if condition is None else condition
        x = x.contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            return teacher.answer(teacher.unet, x, timesteps, requested)

    def step(self, step: int) -> None:
        """One step of the optimiser, piece by piece."""
        accelerator, settings = self.accelerator, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(settings, step)
        # Summed on the network's device: reading a number would make the GPU wait.
        total = torch.zeros((), dtype=torch.float64, device=accelerator.device)
        pieces = self.batches.next()
        if self.beside is not None:
            self._learn_beside(self.beside, pieces[0])
        for piece in pieces:
            if self.graph:
                self.graph.begin()
            self.labels = piece.labels
            value = self.loss(*self._drawn(piece))
            value = value / settings.accumulation_steps
            accelerator.backward(value)
            total += value.detach()
        self.losses.append(total.item())
        _check(self.losses, scaled=accelerator.scaler is not None)
        accelerator.clip_grad_norm_(self.wrapped.parameters(), settings.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.follow(step)

    def _drawn(self, piece: _Piece) -> list[Any]:
        """What a loss is made of."""
        taught = [] if self.teacher is None else [self.taught]
        schedule = self.generator.schedule
        return [self.predict_noise, piece.rows, piece.noise, piece.timesteps, schedule, *taught]

    def _learn_beside(self, beside: Beside, piece: _Piece) -> None:
        """One step of what is learnt beside the network: from the first piece of a batch, and where
        there are several processes, from the first one's share.
        """
        self.labels = piece.labels
        beside.learn(*self._drawn(piece))
        self.optimizer.zero_grad()
        if self.accelerator.num_processes > 1:
            from accelerate.utils import broadcast

            beside.tensors = broadcast(beside.tensors)

    def write(self, checkpoints: Checkpoints) -> None:
        """Saves everything that the next step depends on."""
        tensors = {
            f"weight.{number}": parameter.detach() for number, parameter in enumerate(self.trained)
        }
        tensors |= {f"average.{number}": value for number, value in enumerate(self.average.values)}
        tensors |= optimizer_tensors(self.optimizer.optimizer)
        if self.beside is not None:
            tensors |= {f"beside.{name}": value for name, value in self.beside.tensors.items()}
        tensors |= {
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "order": self.batches.order,
        }
        tensors |= {"draw": self.batches.draw.get_state(), "dropout": torch.get_rng_state()}
        if self.accelerator.device.type == "cuda":
            tensors["dropout_gpu"] = torch.cuda.get_rng_state(self.accelerator.device)
            tensors["noise_gpu"] = self.batches.noise_draw.get_state()
        scaler = self.accelerator.scaler
        state = {
            "calls": self.generator.calls,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        checkpoints.save(self.identity, tensors, state)

    def resume(self, checkpoints: Checkpoints) -> int:
        """Restores what :meth:`write` saved, if anything; returns the number of finished steps."""
        saved = checkpoints.load(self.identity)
        if saved is None:
            return 0
        tensors, state = saved
        with torch.no_grad():
            for prefix, values in (("weight", self.trained), ("average", self.average.values)):
                for number, value in enumerate(values):
                    value.copy_(tensors[f"{prefix}.{number}"])
        restore_optimizer(self.optimizer.optimizer, tensors)
        if self.beside is not None:
            self.beside.tensors = {
                name: tensors[f"beside.{name}"].to(self.accelerator.device)
                for name in self.beside.tensors
            }
        self.losses = tensors["losses"].tolist()
        self.batches.order = tensors["order"]
        self.batches.draw.set_state(tensors["draw"])
        torch.set_rng_state(tensors["dropout"])
        if "dropout_gpu" in tensors:
            torch.cuda.set_rng_state(tensors["dropout_gpu"], self.accelerator.device)
            self.batches.noise_draw.set_state(tensors["noise_gpu"])
        self.generator.calls = state["calls"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        return len(self.losses)


def _accelerator(settings: TrainingSettings, device: str) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(mixed_precision=_PRECISION[settings.precision], cpu=device == "cpu")


def _recordable(generator: Generator, settings: TrainingSettings, accelerator: Accelerator) -> bool:
    """Whether a step's passes may be graphs: one piece a step in one process, and a network that
    draws no random numbers and computes nothing twice.
    """
    dropping = any(
        isinstance(module, torch.nn.Dropout) and module.p for module in generator.unet.modules()
    )
    pieces = settings.accumulation_steps * accelerator.num_processes
    again = settings.gradient_checkpointing or settings.lora_rank is not None
    return pieces == 1 and not dropping and not again and replayable(generator)


def _prepared_network(
    generator: Generator, settings: TrainingSettings, seed: int, device: torch.device
) -> Any:
    """The network prepared for training, after all of ``generator`` was moved to ``device``: its
    encoders are used there too.
    """
    if settings.lora_rank is not None:
        add_adapters(generator.unet, settings.lora_rank, seed)
    network: Any = generator.to(device).unet
    if settings.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network.train()


def _finish(generator: Generator, network: Any, settings: TrainingSettings) -> None:
    """Makes ``network`` an ordinary one again: no adapters, no training options."""
    if settings.gradient_checkpointing:
        network.disable_gradient_checkpointing()
    generator.unet = network.eval()
    if settings.lora_rank is not None:
        fuse_adapters(generator.unet)


@contextmanager
def _own_dropout(seed: int, process: int) -> Iterator[None]:
    """Seeds torch's default stream, which dropout draws from and which would otherwise continue
    from the state that an earlier stage left.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "dropout", process))
        yield


def _check(losses: list[float], *, scaled: bool) -> None:
    """Raises ``FloatingPointError`` if ``losses`` end in too many that are not finite."""
    allowed = NON_FINITE_STEPS if scaled else 1
    last = losses[-allowed:]
    if len(last) == allowed and not any(math.isfinite(value) for value in last):
        earlier_steps = f", as in the {allowed - 1} steps before" if allowed > 1 else ""
        raise FloatingPointError(
            f"the training loss became {losses[-1]} at step {len(losses) - 1}{earlier_steps}"
        )
