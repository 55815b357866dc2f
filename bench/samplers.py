"""The samplers that a suite lists: how the generator of a cell is sampled, in place of the
testbed's own sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from bench.diffusion.sampling import SPACED, SamplerSettings
from bench.record import PluginSpec
from bench.testbeds.testbed import Testbed

#: name -> a line for people. All follow the model's own schedule.
SUMMARIES = {
    "ddpm": "ancestral sampling with noise at every step (Ho et al. 2020, arXiv 2006.11239)",
    "ddim": "first order, without noise, or with the share eta of it (Song et al. 2021, "
    "arXiv 2010.02502)",
    "dpm_solver": "second-order multistep solver for the noise (Lu et al. 2022, arXiv 2206.00927)",
    "dpm_solver++": "second-order multistep solver for x_0 (Lu et al. 2022, arXiv 2211.01095)",
    "sde_dpm_solver++": "the same with noise at every step (Lu et al. 2022, arXiv 2211.01095)",
    "unipc": "second-order multistep predictor and corrector (Zhao et al. 2023, arXiv 2302.04867)",
    "pndm": "fourth-order linear multistep, PLMS (Liu et al. 2022, arXiv 2202.09778)",
    "deis": "second-order exponential integrator (Zhang and Chen 2023, arXiv 2204.13902)",
    "heun": "second order, two network calls a step (Karras et al. 2022, arXiv 2206.00364)",
}


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """``name``: one of :data:`~bench.diffusion.sampling.SAMPLERS`; the fields as in
    :class:`~bench.diffusion.sampling.SamplerSettings`, ``None`` for the testbed's own.

    ``spacing`` is for ddpm, ddim, pndm and heun, ``eta`` for ddim (0 if not given),
    ``guidance_scale`` for testbeds whose generator is asked for a class. Precision and network
    batch are the machine's business and always the testbed's. Raises ``ValueError``.
    """

    name: str
    num_inference_steps: int | None = None
    spacing: Literal["leading", "trailing"] | None = None
    clip: Literal["none", "x0", "xt"] | None = None
    guidance_scale: float | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None and self.name not in SPACED:
            raise ValueError(
                f"sampler {self.name}: spacing must not be given but for {', '.join(SPACED)}, got "
                f"{self.spacing!r}"
            )
        if self.eta is not None and self.name != "ddim":
            raise ValueError(
                f"sampler {self.name}: eta must not be given but for ddim, got {self.eta}"
            )
        try:
            SamplerSettings(**self._changes())
        except ValueError as error:
            raise ValueError(f"sampler {self.name}: {error}") from error

    def _changes(self) -> dict[str, Any]:
        return {field: value for field, value in asdict(self).items() if value is not None}

    def settings(self, testbed: Testbed) -> SamplerSettings:
        """How the generators of ``testbed`` are sampled. Raises ``ValueError`` for what does not go
        together there.
        """
        if self.guidance_scale is not None and not testbed.has_classes():
            raise ValueError(
                f"guidance_scale must not be given where no class is asked for, got "
                f"{self.guidance_scale}"
            )
        return replace(testbed.sampler.settings(), **self._changes())


def fields_of(name: str) -> list[str]:
    """The fields of :class:`Sampler` that this sampler goes by."""
    spaced, noisy = ["spacing"] * (name in SPACED), ["eta"] * (name == "ddim")
    return ["num_inference_steps", "clip", *spaced, *noisy, "guidance_scale"]


def _params(settings: SamplerSettings, testbed: Testbed) -> dict[str, Any]:
    """What the sampler goes by on ``testbed``."""
    has_classes = testbed.has_classes()
    return {
        field: getattr(settings, field)
        for field in fields_of(settings.name)
        if has_classes or field != "guidance_scale"
    }


def spec_of(sampler: Sampler, testbed: Testbed) -> PluginSpec | None:
    """What stands in a record made on ``testbed``: every setting, and a label that names those
    that differ from the testbed's own. ``None`` if it is the testbed's own sampler.
    """
    params, own = (
        _params(settings, testbed)
        for settings in (sampler.settings(testbed), testbed.sampler.settings())
    )
    if sampler.name == testbed.sampler.settings().name and params == own:
        return None
    usual = {"eta": 0.0} | own
    differing = ", ".join(
        f"{field}={value}" for field, value in params.items() if value != usual.get(field)
    )
    return PluginSpec(
        name=sampler.name,
        params=params,
        label=sampler.name + (f"({differing})" if differing else ""),
    )


def bare(spec: PluginSpec) -> dict[str, Any]:
    """What names a sampler in a stage's parameters."""
    return {"name": spec.name, "params": spec.params}


def settings_of(testbed: Testbed, params: Mapping[str, Any]) -> SamplerSettings:
    """How a stage samples: by the sampler in its parameters, or the testbed's own."""
    listed = params.get("sampler")
    if listed is None:
        return testbed.sampler.settings()
    return Sampler(name=listed["name"], **listed["params"]).settings(testbed)
