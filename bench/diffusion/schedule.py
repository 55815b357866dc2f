"""The noise schedule of a variance-preserving diffusion model, as plain numbers.

Notation (Ho et al. 2020, arXiv 2006.11239, eq. 4): ``x_t = A[t] x_0 + s[t] e`` with ``A =
sqrt(alphas_cumprod)`` and ``s = sqrt(1 - alphas_cumprod)``. Everything is stored in float64;
batches get float32.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.errors import UserError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """``betas``: float64 (T,), every value in (0, 1)."""

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        wrong = [
            f"{beta:g} at timestep {timestep}"
            for timestep, beta in enumerate(self.betas)
            if not 0 < beta < 1
        ]
        if not self.betas or wrong:
            got = wrong[0] if wrong else "none"
            raise ValueError(f"betas must be a non-empty sequence of values in (0, 1), got {got}")

    @classmethod
    def linear(
        cls, num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
    ) -> Schedule:
        """DDPM's schedule (Ho et al. 2020, section 4)."""
        return cls(
            tuple(np.linspace(beta_start, beta_end, num_train_timesteps, dtype=np.float64).tolist())
        )

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas(self) -> Floats:
        """``1 - beta``, float64 (T,)."""
        return 1 - np.asarray(self.betas, dtype=np.float64)

    @cached_property
    def alphas_cumprod(self) -> Floats:
        """The products of the alphas, float64 (T,), decreasing from near 1 to near 0."""
        products: Floats = np.cumprod(self.alphas)  # type: ignore[assignment]  # numpy 2.4 types cumprod as any floating
        return products

    @cached_property
    def signal(self) -> Floats:
        """``A[t]``, the remaining share of the clean image, float64 (T,)."""
        signal: Floats = np.sqrt(self.alphas_cumprod)
        return signal

    @cached_property
    def noise(self) -> Floats:
        """``s[t]``, the standard deviation of the noise, float64 (T,)."""
        noise: Floats = np.sqrt(1 - self.alphas_cumprod)
        return noise

    def at(self, values: Floats, timesteps: Tensor, like: Tensor) -> Tensor:
        """``values[timesteps]`` with ``like``'s dtype and device, shaped to multiply a batch like
        it: (n, 1, 1, 1).
        """
        chosen = torch.as_tensor(values, dtype=like.dtype, device=like.device)[
            timesteps.to(like.device)
        ]
        return chosen.reshape(-1, *([1] * (like.ndim - 1)))


#: diffusers' schedulers over DDPM's process: x_t = A x_0 + s e with A^2 + s^2 = 1 from a table of
#: betas, at integer timesteps. They differ in the sampler only; a network saved with one can be
#: sampled with any other.
VARIANCE_PRESERVING = frozenset(
    f"{name}Scheduler"
    for name in (
        *(
            "DDPM",
            "DDPMParallel",
            "DDIM",
            "DDIMParallel",
            "DDIMInverse",
            "PNDM",
            "RePaint",
            "DEISMultistep",
            "UniPCMultistep",
        ),
        *(
            "DPMSolverMultistep",
            "DPMSolverMultistepInverse",
            "DPMSolverSinglestep",
            "DPMSolverSDE",
            "SASolver",
            "LMSDiscrete",
        ),
        *(
            "EulerDiscrete",
            "EulerAncestralDiscrete",
            "HeunDiscrete",
            "KDPM2Discrete",
            "KDPM2AncestralDiscrete",
        ),
    )
)
#: The entries of a scheduler's configuration that define the table of betas.
TABLE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
MOST_TIMESTEPS = 100_000
#: The variances of DDPM's steps that are not learned; with others the network predicts them too.
FIXED_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")


def betas_of(scheduler_config: Mapping[str, Any]) -> tuple[float, ...]:
    """The table of betas of a scheduler's configuration, as diffusers computes it (linear,
    scaled_linear, squaredcos_cap_v2, laplace, sigmoid or trained betas; float32 values). Training
    and all samplers use this function, so that they cannot differ.

    Raises ``ValueError`` naming the entry, the constraint and the value.
    """
    from diffusers import DDPMScheduler

    if scheduler_config.get("rescale_betas_zero_snr"):
        raise ValueError(
            "rescale_betas_zero_snr must be false for a network that predicts the noise: at the "
            "last step there is no signal left"
        )
    table = {
        key: scheduler_config[key] for key in TABLE_KEYS if scheduler_config.get(key) is not None
    }
    steps = table.get("num_train_timesteps", 1000)
    if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= MOST_TIMESTEPS:
        raise ValueError(
            f"num_train_timesteps must be a whole number in 1..{MOST_TIMESTEPS}, got "
            f"{str(steps)[:40]}"
        )
    trained = table.get("trained_betas")
    if trained is not None and (not isinstance(trained, list | tuple) or len(trained) != steps):
        got = f"{len(trained)}" if isinstance(trained, list | tuple) else repr(trained)[:40]
        raise ValueError(
            f"trained_betas must be a list of {steps}, one for each of num_train_timesteps, got "
            f"{got}"
        )
    for key in ("beta_start", "beta_end"):
        if key in table and (
            isinstance(table[key], bool)
            or not isinstance(table[key], int | float)
            or not 0 < table[key] < 1
        ):
            raise ValueError(f"{key} must be a number in (0, 1), got {str(table[key])[:40]}")
    try:
        betas = tuple(DDPMScheduler(**table).betas.double().tolist())
    except NotImplementedError:
        raise ValueError(
            f"beta_schedule must be one that DDPM knows, got {table['beta_schedule']!r}"
        ) from None
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"no betas follow from {', '.join(table)}: {error}") from error
    return Schedule(betas).betas


def read_scheduler(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The entries of a checkpoint's scheduler configuration, completed with the default betas of
    its class, as training and sampling use them. ``where``: its file, for messages.

    Raises :class:`UserError` for a process that is not variance-preserving, or that does not suit a
    network that predicts the noise.
    """
    import diffusers

    class_name = config.get("_class_name")
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    if class_name is None and not any(
        public.get(key) is not None for key in ("beta_start", "beta_schedule", "trained_betas")
    ):
        raise UserError(
            f"{where} must name its scheduler (_class_name) or give its betas, got neither"
        )
    if class_name is not None and (
        not isinstance(class_name, str) or class_name not in VARIANCE_PRESERVING
    ):
        raise UserError(
            f"{where}: the model was trained under {str(class_name)[:60]}, whose noise process is "
            "not DDPM's variance-preserving one over a table of betas; it cannot be trained or "
            "sampled here"
        )
    if public.get("use_flow_sigmas"):
        raise UserError(
            f"{where}: use_flow_sigmas must be false: flow matching is another noise process "
            f"than DDPM's"
        )
    own = inspect.signature(getattr(diffusers, class_name or "DDPMScheduler").__init__).parameters
    defaults = {key: own[key].default for key in TABLE_KEYS if key in own}
    entries = {
        key: value for key, value in public.items() if value is not None or key not in defaults
    }
    merged = defaults | entries
    variance = merged.get("variance_type") or "fixed_small"
    if variance not in FIXED_VARIANCES:
        raise UserError(
            f"{where}: variance_type must be one of {', '.join(FIXED_VARIANCES)} (learned "
            f"variance is not supported), got {variance!r}"
        )
    try:
        betas_of(merged)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return merged
