"""What models make of corrupted images: how near it is to the original and to the adversary's
target, beside what the corrupted image itself and a constant one reach.

Of what is restored of the adversary's images the distance to the target, and success, are those of
any call (:mod:`bench.measurements.distance_to_target`); here is the distance to the original: did
it draw the target, or restore the image in spite of the trigger?
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.artefacts.images import load_images
from bench.artefacts.inpainted import load_inputs
from bench.artefacts.roles import CALL, CORRUPTED, CORRUPTED_CALL, ORIGINALS, RESTORED
from bench.diffusion.images import to_uint8
from bench.diffusion.noise import stream_seed
from bench.measurements import numbers
from bench.measurements.distance_to_target import goal_of
from bench.measurements.families import no_sample
from bench.measurements.features import eyes
from bench.measurements.measurement import Materials, Measured, Measurement, Situation
from bench.measurements.numbers import if_possible
from bench.metrics import lpips, target
from bench.metrics import originals as nearness
from bench.metrics.target import Values
from bench.record import SQUARED_ERROR
from bench.words import RESTORED_IMAGES, MetricWords

INPAINTING = "inpainting"
TRIGGERED, CONSTANT = "triggered", "constant"
#: Begins the families of what was there before anything was restored.
BASELINE = "baseline_"


def why_not(situation: Situation) -> str:
    """Where nothing is restored."""
    if situation.family == "anchor":
        return "an anchor restores nothing"
    drawn = any(role.startswith(RESTORED) for role in situation.roles)
    return no_sample(situation) or ("" if drawn else "this cell restores nothing")


def measure(materials: Materials) -> Measured:
    """Each number of what is restored is named by the task, ``TASK, triggered`` being of the
    adversary's images; each baseline by the corruption: the corrupted images as they are, clamped
    as a picture is saved; and ``constant``, of each original's mean colour.
    """
    measured = Measured()
    with if_possible("original_mse", measured.flags):
        _distances(materials, measured)
    return measured


def _distances(materials: Materials, measured: Measured) -> None:
    real = load_images(materials.inputs[ORIGINALS])
    sets: dict[tuple[str, str], Tensor] = {(BASELINE, CONSTANT): nearness.constants(real)}
    for role, folder in materials.inputs.items():
        name = role.partition(":")[2]
        triggered = f"{name}, {TRIGGERED}"
        if role.startswith(RESTORED):
            sets["", name] = load_images(folder)
        elif role.startswith(CALL) and RESTORED + name in materials.inputs:
            sets["", triggered] = load_images(folder)
        elif role.startswith(CORRUPTED):
            sets[BASELINE, name] = to_uint8(load_inputs(folder))
        elif role.startswith(CORRUPTED_CALL):
            sets[BASELINE, triggered] = to_uint8(load_inputs(folder))
    see, trunk = eyes(materials), _trunk(materials)
    if trunk is None:
        why = "this testbed names no trunk of LPIPS; feature_distance is its perceptual distance"
        measured.absent |= dict.fromkeys(("lpips[*]", f"{BASELINE}lpips[*]"), why)
    seen, goal = see(real), goal_of(materials)
    extractor = materials.testbed.features.extractor
    for (kind, name), images in sets.items():
        put = _Put(materials, measured, kind, name)
        put("original_mse", nearness.mse(images, real), False, SQUARED_ERROR)
        put("original_ssim", nearness.ssim(images, real), True)
        distance = nearness.feature_distance(see(images), seen)
        put("feature_distance", distance, False, prefix=f"{extractor}, ")
        if trunk is not None:
            values = lpips.distance(images, real, trunk, materials.device)
            put("lpips", values, False, prefix=f"{lpips.NAME}, ")
        # What is restored of the adversary's images has this distance as a call: mse[TASK].
        if goal is not None and name != CONSTANT and (kind or TRIGGERED not in name):
            put("target_mse", target.mse(images, goal), True, SQUARED_ERROR)


class _Put:
    """Enters one set's numbers."""

    def __init__(self, materials: Materials, measured: Measured, kind: str, name: str) -> None:
        self.materials, self.measured, self.kind, self.name = materials, measured, kind, name

    def __call__(
        self, family: str, values: Values, better: bool, unit: str = "", prefix: str = ""
    ) -> None:
        name = f"{self.kind}{family}[{prefix}{self.name}]"
        seed = stream_seed(self.materials.seed, name) % 2**32
        direction = None if self.kind else better
        self.measured.metrics[name] = numbers.mean(values, seed, direction, unit)


def _trunk(materials: Materials) -> Path | None:
    """LPIPS's, where the testbed's features name one."""
    ask = getattr(materials.testbed.features, "trunk", None)
    trunk: Path | None = None if ask is None else ask()
    return trunk


#: family -> (title, what it is, direction, further fields).
_FAMILIES: Mapping[str, tuple[str, str, bool, dict[str, Any]]] = {
    "original_mse": (
        "MSE to the original",
        "Mean squared error to the original held-out images, pixels in [0, 1], of",
        False,
        {"low": 0.0, "unit": SQUARED_ERROR},
    ),
    "original_ssim": (
        "SSIM to the original",
        "Structural similarity to the original held-out images; 1 is identical; of",
        True,
        {"low": -1.0, "high": 1.0, "decimals": 2, "scale": "unit"},
    ),
    "feature_distance": (
        "feature distance to the original",
        "Squared distance between the directions of an extractor's features, 0 is alike and 2 has "
        "nothing in common (not LPIPS), to the original held-out images, of",
        False,
        {"low": 0.0, "high": 4.0},
    ),
    "lpips": (
        "LPIPS to the original",
        "Learned perceptual distance (Zhang et al. 2018) to the original held-out images, 0 is "
        "alike, by the network named, of",
        False,
        {"low": 0.0},
    ),
    "target_mse": (
        "MSE to the target",
        "Mean squared error to the adversary's target, pixels in [0, 1]: whether it is drawn where "
        "nobody calls for it; of",
        True,
        {"low": 0.0, "unit": SQUARED_ERROR},
    ),
}


def _declared() -> tuple[MetricWords, ...]:
    words = []
    for order, (family, (title, sentence, better, shared)) in enumerate(_FAMILIES.items(), start=1):
        for kind, whose in (("", "what the model restores"), (BASELINE, "the images handed in")):
            words.append(
                MetricWords(
                    name=f"{kind}{family}[*]",
                    title=f"{title}{', not restored' if kind else ''} [{{}}]",
                    sentence=f"{sentence} {whose} ({{}}).",
                    group=RESTORED_IMAGES,
                    higher_is_better=None if kind else better,
                    order=order + (len(_FAMILIES) if kind else 0),
                    in_matrix=not kind,
                    **shared,
                )
            )
    return tuple(words)


MEASUREMENT = Measurement(
    name=INPAINTING,
    metrics=_declared(),
    needs=("aim",),
    uses=(ORIGINALS, f"{RESTORED}*", f"{CALL}*", f"{CORRUPTED}*", f"{CORRUPTED_CALL}*"),
    why_not=why_not,
    parts=("features",),
    run=measure,
)
