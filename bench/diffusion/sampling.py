"""Sampling: our own loop around diffusers' schedulers, with an explicit start, explicit clipping
and one noise stream per sample.

diffusers' DDPM and DDIM schedulers clip the predicted x_0 by default, which silently defends
against every attack; its pipelines may swap the scheduler. Neither can happen here: the scheduler
is built by name with its own clipping off, and clipping is one of ``none``, ``x0`` (the predicted
clean image) or ``xt`` (the image after the step; BadDiffusion's eq. 11).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bench.diffusion import returned
from bench.diffusion.generator import Generator
from bench.diffusion.inpainting import Known
from bench.diffusion.noise import (
    CounterStreams,
    Streams,
    initial_noise,
    sample_streams,
)
from bench.diffusion.precision import autocast
from bench.diffusion.replay import sampling_answer
from bench.diffusion.reverse import Reverse
from bench.diffusion.schedule import Schedule, betas_of

#: name -> (class in diffusers, options that define it). All integrate the model's own schedule.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "thresholding": False}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "thresholding": False}),
    "dpm_solver": (
        "DPMSolverMultistepScheduler",
        {
            "algorithm_type": "dpmsolver",
            "solver_order": 2,
            "final_sigmas_type": "sigma_min",
            "thresholding": False,
        },
    ),
    "dpm_solver++": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "thresholding": False},
    ),
    "sde_dpm_solver++": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "thresholding": False},
    ),
    "unipc": (
        "UniPCMultistepScheduler",
        {
            "solver_order": 2,
            "solver_type": "bh2",
            "predict_x0": True,
            "final_sigmas_type": "zero",
            "thresholding": False,
        },
    ),
    # Without the Runge-Kutta start of Liu et al. (2022): as Stable Diffusion was released (PLMS).
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "deis": (
        "DEISMultistepScheduler",
        {
            "algorithm_type": "deis",
            "solver_type": "logrho",
            "solver_order": 2,
            "thresholding": False,
        },
    ),
    "heun": ("HeunDiscreteScheduler", {"clip_sample": False, "use_karras_sigmas": False}),
}
#: Samplers that add noise at every step; ``ddim`` does with an eta above 0.
STOCHASTIC = ("ddpm", "sde_dpm_solver++")
#: Samplers that recompute x from the previous step once they have the next prediction: a guard's
#: change of x in between would be lost.
CORRECTING = ("unipc",)
CLIPS = ("none", "x0", "xt")
#: Samplers that use :attr:`SamplerSettings.spacing`; the solvers space their steps evenly over the
#: whole range.
SPACED = ("ddpm", "ddim", "pndm", "heun")
SPACINGS = ("leading", "trailing")
#: Pixels and channels that go through a GPU's sampler together.
NUMBERS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class SamplerSettings:
    """``name``: one of :data:`SAMPLERS`; ``num_inference_steps``: 1..T; ``clip``: one of
    :data:`CLIPS`; ``precision``: of the network.

    ``spacing``: of the steps of :data:`SPACED`, one of :data:`SPACINGS`. ``leading`` counts up from
    timestep 0 and starts below the last one (20 steps of 1000 start at 950); ``trailing`` counts
    down from the last one (999), where the network was trained on pure noise, which is what
    sampling starts from (Lin et al. 2024, arXiv 2305.08891, section 3.3). The number of steps must
    then divide the schedule's, or diffusers' steps would not be contiguous.

    ``network_batch``: how many images the network always gets at once; short batches are padded. A
    convolution's rounding depends on its batch, and a sampler amplifies rounding; so this number
    affects the samples, and the batch size chosen for memory does not. ``guidance_scale``: w of
    classifier-free guidance, e_u + w (e_c - e_u), for class-conditional generators: 0 ignores the
    class, 1 is the plain conditional model. (Some papers write (1 + w) e_c - w e_u; their w is one
    less.)

    ``eta``: for ``ddim`` only, in [0, 1]: the share of DDPM's noise (its standard deviation) that a
    step adds (Song et al. 2021, arXiv 2010.02502, eq. 16); 0 adds none.
    """

    name: str = "ddpm"
    num_inference_steps: int = 100
    clip: str = "none"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    network_batch: int = 64
    guidance_scale: float = 1.0
    spacing: str = "leading"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, got {self.name!r}")
        if self.clip not in CLIPS:
            raise ValueError(f"clip must be one of {', '.join(CLIPS)}, got {self.clip!r}")
        if self.spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {', '.join(SPACINGS)}, got {self.spacing!r}")
        for field in ("num_inference_steps", "network_batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        if not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(
                f"guidance_scale must be a number of at least 0, got {self.guidance_scale}"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}")
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta must be 0 for any sampler but ddim, got {self.eta}")
        if self.clip == "xt" and self.name in CORRECTING:
            raise ValueError(
                f"clip must be none or x0 for {self.name}, which forms x anew from the step "
                f"before, got 'xt'"
            )

    @property
    def stochastic(self) -> bool:
        """Whether a step adds noise, drawn from the samples' own streams."""
        return self.name in STOCHASTIC or self.eta > 0

    @property
    def network_calls(self) -> int:
        """How often the network is called per sample: Heun's method calls it twice per step except
        the last, and PNDM's second call repeats its first step.
        """
        steps = self.num_inference_steps
        return {"heun": 2 * steps - 1, "pndm": min(steps + 1, 2 * steps - 1)}.get(self.name, steps)


@dataclass(frozen=True, kw_only=True)
class Start:
    """The start of a batch. noise: (n, c, h, w); labels, (n,), or prompts, n texts: the condition,
    instead of the labels of :func:`sample`; known, (n, c, h, w) in [-1, 1], and mask, (n, 1, h, w)
    bool: the part of the picture that stays; reverse: the adversary's own reverse process, if any.
    """

    noise: Tensor
    labels: Tensor | None = None
    prompts: tuple[str, ...] | None = None
    known: Tensor | None = None
    mask: Tensor | None = None
    reverse: Reverse | None = None


class Guard(Protocol):
    """Intervenes at every step; :class:`bench.plugin.SamplerDefense` has this interface. Each call
    gets a copy.

    A sampler that calls the network twice for a step (``heun``, the first step of ``pndm``) is
    guarded at both calls: every input of the network has passed ``stepped``, including the trial
    point. A guard that changes x in ``stepped`` cannot run under a sampler in :data:`CORRECTING`.
    """

    @property
    def keeps_noise(self) -> bool: ...
    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor: ...
    def stepped(self, x: Tensor, timestep: int) -> Tensor: ...


@dataclass(frozen=True)
class Clip:
    """Clamps to [-1, 1] what its mode names: ``x0`` or ``xt``."""

    mode: str
    keeps_noise: bool = False

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor:
        return predicted_x0.clamp(-1, 1) if self.mode == "x0" else predicted_x0

    def stepped(self, x: Tensor, timestep: int) -> Tensor:
        return x.clamp(-1, 1) if self.mode == "xt" else x


def check_steps(settings: SamplerSettings, timesteps: int) -> None:
    """Raises ``ValueError`` if a schedule of ``timesteps`` steps cannot be sampled with
    ``settings``.
    """
    steps = settings.num_inference_steps
    if steps > timesteps:
        raise ValueError(
            f"num_inference_steps must be at most the schedule's {timesteps} steps, got {steps}"
        )
    if settings.name not in SPACED and steps == timesteps > 1:
        raise ValueError(
            f"num_inference_steps must be below the schedule's {timesteps} steps for "
            f"{settings.name}, whose steps would meet, got {steps}"
        )
    if settings.name in SPACED and settings.spacing == "trailing" and timesteps % steps:
        raise ValueError(
            f"num_inference_steps must divide the schedule's {timesteps} steps for trailing "
            f"spacing, got {steps}"
        )
    # Leading steps are timesteps // steps apart and end at 0: what does not divide is left out at
    # the noisy end, and plain noise is no x of a timestep far below the last.
    if settings.name in SPACED and settings.spacing == "leading":
        if steps == 1 < timesteps:
            raise ValueError(
                "num_inference_steps must be at least 2 for leading spacing, whose only step would "
                "be the schedule's last, at timestep 0, got 1"
            )
        if 10 * (timesteps % steps) > timesteps:
            first = (steps - 1) * (timesteps // steps)
            raise ValueError(
                f"num_inference_steps must nearly divide the schedule's {timesteps} steps for "
                f"leading spacing, or it begins far below the noise (at timestep {first}), got "
                f"{steps}"
            )


def build_scheduler(settings: SamplerSettings, scheduler_config: dict[str, Any]) -> Any:
    """The diffusers scheduler for ``settings`` over the model's own noise schedule, its timesteps
    set.

    The betas are passed as a table, the one that training uses, since not every scheduler supports
    every formula. Stable Diffusion's settings for the ends of DDIM are kept: ``steps_offset``
    (timesteps 981 to 1 of 1000 in 50 steps, not 980 to 0) and ``set_alpha_to_one`` (false: the last
    step leads to the signal level of timestep 0, not to 1).
    """
    import diffusers

    class_name, options = SAMPLERS[settings.name]
    betas = betas_of(scheduler_config)
    steps, limit = settings.num_inference_steps, len(betas)
    check_steps(settings, limit)
    config: dict[str, Any] = {"num_train_timesteps": limit, "trained_betas": list(betas)}
    if settings.name in SPACED:
        offset = int(scheduler_config.get("steps_offset") or 0)
        last = (steps - 1) * (limit // steps)
        config |= {
            "timestep_spacing": settings.spacing,
            "steps_offset": min(offset, limit - 1 - last),
        }
    if settings.name == "ddpm":
        config["variance_type"] = scheduler_config.get("variance_type") or "fixed_small"
    if settings.name in ("ddim", "pndm"):
        config["set_alpha_to_one"] = scheduler_config.get("set_alpha_to_one", True)
    scheduler = getattr(diffusers, class_name).from_config({**config, **options})
    scheduler.set_timesteps(steps)
    return scheduler


def guarded_prediction(
    reverse: Reverse, prediction: Tensor, x: Tensor, call: int, guards: Sequence[Guard]
) -> tuple[Tensor, Tensor | None]:
    """The noise prediction that implies the guarded x_0, and, under DDIM, the further change of x_0
    by guards that keep the noise (``None`` if there is none).

    Works the same for every sampler: x_0 passes through the guards and is converted back to a
    prediction. For DDPM this is diffusers' ``clip_sample``; for DDIM it is ``clip_sample`` with
    ``use_clipped_model_output``, which keeps x_0 and e consistent. Without that option, diffusers'
    default, DDIM forms x_{t-1} from the clipped x_0 and the unclipped e: see
    :meth:`Scheduled.weight_of_clean`.
    """
    keeping = isinstance(reverse, Scheduled) and reverse.settings.name == "ddim"
    timestep = reverse.timesteps[call]
    before = reverse.clean(prediction, x, call)
    after = before
    for guard in guards:
        if not (keeping and guard.keeps_noise):
            after = _guarded(guard, "predicted_x0", after, timestep)
    final = after
    for guard in guards:
        if keeping and guard.keeps_noise:
            final = _guarded(guard, "predicted_x0", final, timestep)
    # Unchanged predictions are passed on as they are: a round trip would only add rounding errors.
    changed = prediction if after is before else reverse.prediction(after, x, call)
    return changed, None if final is after else final - after


def _guarded(guard: Guard, method: str, x: Tensor, timestep: int) -> Tensor:
    """A guard's result for a copy of ``x``; ``x`` itself if the guard did not change it.

    ``return x.clamp_(-1, 1)`` is the same defense as ``return x.clamp(-1, 1)``, to the last bit: a
    tensor written in place counts as changed whatever its values, otherwise a row's rounding would
    depend on the other rows. Raises :class:`ContractError` for anything but a finite tensor like
    ``x``.
    """
    handed = x.clone()
    written = None if handed.is_inference() else handed._version
    result: object = getattr(guard, method)(handed, timestep)
    untouched = handed.is_inference() or handed._version == written
    if result is handed and untouched and torch.equal(handed, x):
        return x
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError(
            f"the sampler's values were not finite before timestep {timestep}'s {method}()"
        )
    who = returned.owner(guard, method)
    return returned.tensor(
        result,
        who,
        x.shape,
        x.dtype,
        x.device,
        f"a tensor like {'x' if method == 'stepped' else method},",
    )


class _NoiseOf(TorchFunctionMode):
    """Inside this context diffusers' random draws come from counter-based streams."""

    def __init__(self, streams: CounterStreams) -> None:
        super().__init__()
        self.streams = streams

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            return self.streams.normal(tuple(args[0][1:]))
        return func(*args, **(kwargs or {}))


class Scheduled:
    """diffusers' scheduler for ``settings`` over the model's own noise schedule, as a
    :class:`~bench.diffusion.reverse.Reverse`. ``streams``: one per row, for stochastic samplers.
    """

    def __init__(
        self, settings: SamplerSettings, scheduler_config: dict[str, Any], streams: Streams
    ) -> None:
        self.settings, self.streams = settings, streams
        self.scheduler = build_scheduler(settings, scheduler_config)
        self.timesteps = [int(step) for step in self.scheduler.timesteps]
        alphas_cumprod = self.scheduler.alphas_cumprod.double()
        #: A^2 at each call.
        self.alphas_cumprod = [float(alphas_cumprod[step]) for step in self.timesteps]
        self._weights: list[tuple[float, float]] = [
            (float(alphas_cumprod[step]) ** 0.5, float(1 - alphas_cumprod[step]) ** 0.5)
            for step in self.timesteps
        ]

    def clean(self, prediction: Tensor, x: Tensor, call: int) -> Tensor:
        signal, noise = self._weights[call]
        clean: Tensor = (x - noise * prediction) / signal
        return clean

    def prediction(self, clean: Tensor, x: Tensor, call: int) -> Tensor:
        signal, noise = self._weights[call]
        prediction: Tensor = (x - signal * clean) / noise
        return prediction

    def step(self, prediction: Tensor, x: Tensor, call: int, noise: Callable[[], Tensor]) -> Tensor:
        scheduler, settings = self.scheduler, self.settings
        options: dict[str, Any] = {"eta": settings.eta} if settings.name == "ddim" else {}
        scale = 1.0
        if settings.name == "heun":
            # Its x is ours divided by A = 1 / sqrt(1 + sigma^2); its result is at the next call's
            # sigma.
            here, scale = (
                float(sigma.double() ** 2 + 1) ** 0.5 for sigma in scheduler.sigmas[call : call + 2]
            )
            x = here * x
        drawing: Any = nullcontext()
        if settings.stochastic:
            if isinstance(self.streams, CounterStreams):
                drawing = _NoiseOf(self.streams)
            else:
                options["generator"] = list(self.streams)
        with drawing:
            at = scheduler.timesteps[call]
            stepped: Tensor = scheduler.step(prediction, at, x, **options).prev_sample
        return stepped if scale == 1 else stepped / scale

    def weight_of_clean(self, call: int) -> float:
        """The weight of x_0 in DDIM's x_{t-1} = A x_0 + s e: A of the timestep of x_{t-1}."""
        scheduler = self.scheduler
        steps = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
        previous = self.timesteps[call] - steps
        alphas_cumprod = scheduler.alphas_cumprod
        before = alphas_cumprod[previous] if previous >= 0 else scheduler.final_alpha_cumprod
        weight: float = float(before) ** 0.5
        return weight


def _after_step(guard: Guard, x: Tensor, timestep: int, settings: SamplerSettings) -> Tensor:
    """The guarded result of a step. Raises ``ValueError`` if the guard changes it under a sampler
    that would recompute it.
    """
    guarded = _guarded(guard, "stepped", x, timestep)
    if guarded is not x and settings.name in CORRECTING:
        raise ValueError(
            f"{settings.name} forms x anew from the step before, so no guard may change it in "
            f"stepped(), got another x at timestep {timestep}"
        )
    return guarded


def predict_noise(
    generator: Generator,
    x: Tensor,
    timestep: int,
    settings: SamplerSettings,
    labels: Tensor | None = None,
) -> Tensor:
    """The network's prediction for ``x`` (n, c, h, w), guided towards ``labels`` (n,) if given.

    Computed in padded pieces of ``settings.network_batch``, so that a row's prediction does not
    depend on the number of rows.
    """
    if labels is None:
        return _in_pieces(generator, x, timestep, settings, None)
    if settings.guidance_scale == 1:
        return _in_pieces(generator, x, timestep, settings, labels)
    free = _in_pieces(
        generator, x, timestep, settings, torch.full_like(labels, generator.classes or 0)
    )
    return free + settings.guidance_scale * (
        _in_pieces(generator, x, timestep, settings, labels) - free
    )


def _in_pieces(
    generator: Generator, x: Tensor, timestep: int, settings: SamplerSettings, labels: Tensor | None
) -> Tensor:
    size = settings.network_batch
    missing = -len(x) % size
    padded = torch.cat([x, x.new_zeros((missing, *x.shape[1:]))]).contiguous(
        memory_format=torch.channels_last
    )
    timesteps = torch.full((size,), timestep, device=x.device)
    labels_of_pieces: list[tuple[Tensor | None]] = [(None,)] * (len(padded) // size)
    if labels is not None:
        labels_of_pieces = [
            (piece,) for piece in torch.cat([labels, labels.new_zeros(missing)]).split(size)
        ]
    ask = sampling_answer(generator, settings.precision)
    pieces = [
        ask(piece, timesteps, *label)
        for piece, label in zip(padded.split(size), labels_of_pieces, strict=True)
    ]
    return torch.cat(pieces)[: len(x)]


@torch.no_grad()
def denoise(
    generator: Generator,
    start: Tensor,
    streams: Streams,
    settings: SamplerSettings,
    guards: Sequence[Guard] = (),
    *,
    labels: Tensor | None = None,
    known: Known | None = None,
    reverse: Reverse | None = None,
    trajectory: Callable[[int, Tensor], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> Tensor:
    """Runs one batch from ``start`` (n, c, h, w) to images of the same shape, not clamped.

    ``streams``: one per row, advanced by stochastic samplers. ``labels``: (n,), the classes for a
    class-conditional generator. ``known``: the part of the picture that stays. ``reverse``: the
    reverse process, in place of the sampler in ``settings``. ``trajectory(timestep, x)`` gets every
    x_{t-1}. Raises ``ValueError`` for a known part under a sampler that would recompute x.
    """
    if known is not None and settings.name in CORRECTING:
        raise ValueError(
            f"{settings.name} forms x anew from the step before, so no part of the picture can be "
            f"put back after a step, got a mask"
        )
    shape = tuple(start.shape[1:])
    device = generator.device
    x = start.to(device, torch.float32)
    labels = None if labels is None else labels.to(device)
    guards = (Clip(settings.clip), *guards) if settings.clip != "none" else tuple(guards)
    stepper = reverse or Scheduled(settings, generator.scheduler_config, streams)
    alphas_cumprod = Schedule(betas_of(generator.scheduler_config)).alphas_cumprod
    x = x if known is None else known.put_back(x, float(alphas_cumprod[stepper.timesteps[0]]))
    for call, timestep in enumerate(stepper.timesteps):
        prediction = predict_noise(generator, x, timestep, settings, labels)
        beyond: Tensor | None = None
        if guards:
            prediction, beyond = guarded_prediction(stepper, prediction, x, call, guards)
        x = stepper.step(prediction, x, call, lambda: initial_noise(streams, shape).to(device))
        if beyond is not None and isinstance(stepper, Scheduled):
            x = x + stepper.weight_of_clean(call) * beyond
        for guard in guards:
            x = _after_step(guard, x, timestep, settings)
        if known is not None:
            later = stepper.timesteps[call + 1 : call + 2]
            x = known.put_back(x, float(alphas_cumprod[later[0]]) if later else 1.0)
        if trajectory:
            trajectory(timestep, x)
        if after_step:
            after_step()
    return x


def images_at_once(settings: SamplerSettings) -> int:
    """The smallest multiple of the network's batch that is at least 128: padding would be wasted
    work.
    """
    return -(-128 // settings.network_batch) * settings.network_batch


def images_of_a_batch(settings: SamplerSettings, generator: Generator) -> int:
    """How many samples are drawn together: :func:`images_at_once`, and on a GPU, which small images
    leave idle, as many whole batches of the network as have :data:`NUMBERS_AT_ONCE`.
    """
    usual = images_at_once(settings)
    if generator.device.type == "cpu":
        return usual
    batches = NUMBERS_AT_ONCE // math.prod(generator.noise_shape) // settings.network_batch
    return max(usual, batches * settings.network_batch)


def sample(
    generator: Generator,
    count: int,
    seed: int,
    settings: SamplerSettings,
    *,
    labels: Tensor | None = None,
    start: Callable[[Tensor, Sequence[int]], Tensor | Start] | None = None,
    guards: Sequence[Guard] = (),
    batch_size: int | None = None,
    purpose: str = "sample",
    first: int = 0,
    finish: Callable[[Tensor], Tensor] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Tensor:
    """``count`` images (count, c, h, w) float32 in [-1, 1], clamped at the end as when a picture is
    saved. ``finish`` is applied to each batch, since thousands of large images would not fit into
    memory as float32.

    ``labels``: (count,) int64, a class-conditional generator's class for each sample.
    ``start(noise, indices)`` turns the initial noise of those sample indices, on the CPU, into the
    network's input or a whole :class:`Start`; ``None``: the noise itself. The same ``seed`` gives
    the same noise for every sample index, whatever the ``batch_size``; the default is
    :func:`images_of_a_batch`. ``first``: index of the first sample, for a part of a larger set.
    """
    size = batch_size or images_of_a_batch(settings, generator)
    batches = [
        range(low, min(low + size, first + count)) for low in range(first, first + count, size)
    ]
    total, done = len(batches) * settings.network_calls, 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total, "sampling steps")

    images = []
    for indices in batches:
        streams = sample_streams(seed, indices, purpose, generator.device)
        noise = initial_noise(streams, generator.noise_shape)
        batch_start = start(noise.cpu(), indices) if start else noise
        if isinstance(batch_start, Tensor):
            batch_start = Start(noise=batch_start)
        if batch_start.labels is None and labels is not None:
            batch_start = replace(
                batch_start, labels=labels[indices.start - first : indices.stop - first]
            )
        decoded = _drawn(generator, batch_start, streams, settings, guards, advance)
        images.append(finish(decoded) if finish else decoded)
    return torch.cat(images)


def _drawn(
    generator: Generator,
    start: Start,
    streams: Streams,
    settings: SamplerSettings,
    guards: Sequence[Guard],
    after_step: Callable[[], None],
) -> Tensor:
    """One batch of :func:`sample`."""
    conditioned, labels = generator, start.labels
    if start.prompts is not None:
        table = tuple(dict.fromkeys(start.prompts))
        conditioned = generator.with_prompts(table)
        labels = torch.tensor([table.index(prompt) for prompt in start.prompts])
    known = None
    if start.known is not None and start.mask is not None:
        known = Known.of(generator, start.known, start.mask, start.noise)
    denoised = denoise(
        conditioned,
        start.noise,
        streams,
        settings,
        guards,
        labels=labels,
        known=known,
        reverse=start.reverse,
        after_step=after_step,
    )
    if conditioned is not generator:
        generator.calls = conditioned.calls
    images = _decoded(generator, denoised, settings)
    if start.known is not None and start.mask is not None:
        images = torch.where(start.mask, start.known, images)
    return images


def _decoded(generator: Generator, denoised: Tensor, settings: SamplerSettings) -> Tensor:
    """The decoded images, clamped to [-1, 1], on the CPU; in padded pieces, for the same reason as
    in :func:`predict_noise`.
    """
    padded = torch.cat(
        [
            denoised,
            denoised.new_zeros((-len(denoised) % settings.network_batch, *denoised.shape[1:])),
        ]
    )
    with torch.no_grad(), autocast(denoised.device, settings.precision):
        pieces = [generator.decode(piece).cpu() for piece in padded.split(settings.network_batch)]
    images = torch.cat(pieces)[: len(denoised)]
    # Before the clamp, which would turn infinity into white or black.
    if not bool(torch.isfinite(images).all()):
        raise FloatingPointError("the sampler produced values that are not finite")
    return images.clamp(-1, 1)
