"""Adapters (LoRA) that somebody has published, added to the weights of a testbed's own networks.

A layer's adapter adds ``scale * B A`` to its weight, ``scale = alpha / rank`` (Hu et al. 2021,
arXiv 2106.09685, section 4.1), or ``alpha / sqrt(rank)`` if it is rank-stabilised (Kalajdzievski
2023, arXiv 2312.03732). Where alpha stands depends on who wrote the file: in a tensor beside the
matrices (kohya), in the header of the safetensors file (diffusers), or in ``adapter_config.json``
(peft). Where it stands nowhere, the scale is 1, as diffusers has it.

diffusers' loader knows the names that trainers give the matrices, and is lenient: it passes over
adapters that fit nothing, leaves half of a pair as the memory happens to be, and reads the header
of a file alone, not of tensors. So the scale goes into B before, and what was loaded is counted
after.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bench.diffusion.checkpoint import first_line, read_config
from bench.diffusion.text_to_image import TextToImage
from bench.errors import UserError
from bench.text import one_line

#: peft's own names: the stem of the weights' file, its settings, how its tensors' names begin.
PEFT, PEFT_SETTINGS, _PEFT_PREFIX = "adapter_model", "adapter_config.json", "base_model.model."
#: Where diffusers puts peft's settings in the header of a safetensors file.
_HEADER = "lora_adapter_metadata"
PARTS = ("unet", "text_encoder")
_MATRIX = re.compile(
    r"(?P<layer>.+?)[._]lora(?:_linear_layer)?[._](?P<side>A|down|B|up)(?:\.default)?\.weight"
)
#: What may stand beside the matrices: kohya's alpha, and the magnitudes of DoRA.
_BESIDE = re.compile(r".+(?:[._]alpha|\.dora_scale|\.lora_magnitude_vector(?:\.weight)?)")
#: A name of a layer in ``alpha_pattern``, which could be any regular expression; or its end.
_LAYER = re.compile(r"\^?[\w.]+")
_USUAL_ALPHA = 8  # of peft
#: Settings that say nothing about what the adapters add, or that the tensors say themselves.
_SAID_BY_TENSORS = frozenset(
    ("r", "rank_pattern", "target_modules", "exclude_modules", "layers_to_transform")
    + ("layers_pattern", "use_dora", "lora_dropout", "inference_mode", "task_type", "revision")
    + ("base_model_name_or_path", "auto_mapping", "peft_version", "runtime_config")
    # These count where another setting, which is refused then, says so.
    + ("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core")
    + ("qalora_group_size",)
)
#: Those that are read here, or must be as usual.
_USUAL: dict[str, tuple[object, ...]] = {
    "peft_type": (None, "LORA"),
    "bias": (None, "none"),
    # Others take something off the base's own weights first.
    "init_lora_weights": (None, True, False, "gaussian"),
    "use_rslora": (None, True, False),
}
_READ = frozenset({"lora_alpha", "alpha_pattern"})
State = dict[str, Tensor]


def with_adapters(base: TextToImage, state: State, where: Path) -> TextToImage:
    """A copy of ``base`` with the adapters ``state``, the tensors of the file ``where``, added to
    its U-Net and text encoder.

    Raises :class:`UserError` for adapters of another network, for those that are not whole, and for
    settings that are not read here.
    """
    named, settings = _named(state, where)
    _require_pairs(named, where)
    for of_part in settings.values():
        _refuse_unread(of_part, where)
    if any(settings.values()) and any(name.endswith("alpha") for name in named):
        raise UserError(f"{where} has the scale of its adapters twice, in tensors and in settings")
    scaled = {name: value * _scale(name, value, settings, where) for name, value in named.items()}
    return _fused(base, scaled, where)


def _named(state: State, where: Path) -> tuple[State, dict[str, Mapping[str, Any]]]:
    """The tensors by names that diffusers knows, and the settings by network."""
    if any(name.startswith(_PEFT_PREFIX) for name in state):
        bare = {name.removeprefix(_PEFT_PREFIX): value for name, value in state.items()}
        words = all(name.startswith(("text_model.", "encoder.")) for name in bare)
        part = "text_encoder" if words else "unet"
        beside = where.parent / PEFT_SETTINGS
        if not beside.is_file():
            raise UserError(f"{where}: adapters of peft need the {PEFT_SETTINGS} beside them")
        named = {f"{part}.{name}": value for name, value in bare.items()}
        return named, {part: read_config(beside)}
    if not any(name.startswith((*(f"{part}." for part in PARTS), "lora_")) for name in state):
        state = {f"unet.{name}": value for name, value in state.items()}
    packed = _header(where)
    return state, {
        part: {
            name.removeprefix(f"{part}."): value
            for name, value in packed.items()
            if name.startswith(f"{part}.")
        }
        for part in PARTS
    }


def _header(where: Path) -> dict[str, Any]:
    """The settings in the header of a safetensors file; those of a pickle are none."""
    from safetensors import safe_open

    if where.suffix != ".safetensors":
        return {}
    with safe_open(where, "pt") as opened:
        text = (opened.metadata() or {}).get(_HEADER)
    try:
        packed = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {_HEADER} is not valid JSON: {first_line(error)}") from error
    if not isinstance(packed, dict):
        raise UserError(f"{where}: {_HEADER} must be a JSON object")
    return packed


def _require_pairs(state: State, where: Path) -> None:
    sides: dict[str, set[str]] = {}
    for name in state:
        if matrix := _MATRIX.fullmatch(name):
            sides.setdefault(matrix["layer"], set()).add("B" if _is_b(matrix) else "A")
        elif not _BESIDE.fullmatch(name):
            raise UserError(f"{where} holds {one_line(name, 120)}, which is no part of an adapter")
    for layer, present in sides.items():
        if len(present) < 2:
            raise UserError(
                f"{where}: the adapter of {one_line(layer, 120)} has the matrix "
                f"{present.pop()} without the other"
            )


def _is_b(matrix: re.Match[str]) -> bool:
    return matrix["side"] in ("B", "up")


def _scale(
    name: str, value: Tensor, settings: Mapping[str, Mapping[str, Any]], where: Path
) -> float:
    """What a tensor is multiplied by: B by the scale of its adapter, the others by 1."""
    matrix = _MATRIX.fullmatch(name)
    part, _, layer = matrix["layer"].partition(".") if matrix else ("", "", "")
    of_part = settings.get(part)
    if matrix is None or not of_part or not _is_b(matrix):
        return 1.0
    own = next(
        (
            alpha
            for pattern, alpha in (of_part.get("alpha_pattern") or {}).items()
            if layer == pattern.removeprefix("^") or layer.endswith(f".{pattern}")
        ),
        None,
    )
    alpha = of_part.get("lora_alpha", _USUAL_ALPHA) if own is None else own
    if type(alpha) not in (int, float) or not math.isfinite(alpha):
        raise UserError(f"{where}: lora_alpha must be a finite number, got {_brief(alpha)}")
    rank = max(value.shape[1], 1) if value.ndim > 1 else 1
    return float(alpha) / (math.sqrt(rank) if of_part.get("use_rslora") else rank)


def _refuse_unread(settings: Mapping[str, Any], where: Path) -> None:
    for name, value in settings.items():
        if name in _READ | _SAID_BY_TENSORS:
            continue
        if (value not in _USUAL[name]) if name in _USUAL else value:
            raise UserError(
                f"{where}: its adapters were made with {one_line(name, 60)} {_brief(value)}, "
                f"which is not read here"
            )
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(map(_LAYER.fullmatch, patterns)):
        raise UserError(f"{where}: alpha_pattern must give names of layers, got {_brief(patterns)}")


def _brief(value: object) -> str:
    return one_line(repr(value), 80)


def _fused(base: TextToImage, state: State, where: Path) -> TextToImage:
    """By diffusers' own loader."""
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    made = copy.deepcopy(base)
    pipeline: Any = StableDiffusionPipeline(
        vae=made.vae,
        text_encoder=made.text_encoder,
        tokenizer=made.tokenizer,
        unet=made.unet,
        scheduler=DDPMScheduler.from_config(made.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    try:
        pipeline.load_lora_weights(state)
    except ImportError as error:
        raise UserError("adapters (LoRA) need peft: pip install peft") from error
    except Exception as error:  # names of another network can make it raise anything
        raise UserError(f"{where}: adapters of another network: {first_line(error)}") from error
    given = sum(not name.endswith("alpha") for name in state)
    taken = sum(
        ".lora_" in name for part in PARTS for name, _ in getattr(made, part).named_parameters()
    )
    if taken != given:
        raise UserError(
            f"{where}: adapters of another network: of {given} tensors {taken} have a place in the "
            f"testbed's networks"
        )
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return made
