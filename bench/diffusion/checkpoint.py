"""Checks a checkpoint on disk without loading it: its configurations and the headers of its
safetensors files.

The libraries that load checkpoints are lenient: transformers fills missing weights with random
numbers, diffusers leaves them empty, and both ignore unknown names. This module is strict: the
network is built without memory (on torch's ``meta`` device), and the names and shapes in the files
must match it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import UserError

INDEX = ".safetensors.index.json"
#: A configuration takes a few kilobytes; trained betas and tokenizers' tables are the longest.
MOST_BYTES = 64 * 2**20
#: Far above what any network has; anything larger would take hours to build.
MOST_LAYERS, MOST_IN_A_LIST, LARGEST_NUMBER = 200, 1000, 2**31
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
#: Buffers that older releases saved and newer ones compute.
KNOWN_BUFFERS = ("position_ids",)
#: Prefixes of names that were saved from a wrapper around the network -> the wrapper, a remedy.
WRAPPERS = {
    "module.": "DistributedDataParallel; save its .module",
    "_orig_mod.": "torch.compile; save its ._orig_mod",
    "model.diffusion_model.": (
        "a checkpoint of the original code; convert it with diffusers' script"
    ),
    "first_stage_model.": "a checkpoint of the original code; convert it with diffusers' script",
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One network of a checkpoint: the ``name`` of its folder, the ``library`` and ``class_name``
    that load it, and the ``stem`` of its weights' file names.
    """

    name: str
    library: str
    class_name: str
    stem: str = "diffusion_pytorch_model"


UNCONDITIONAL = Part(name="unet", library="diffusers", class_name="UNet2DModel")
TEXT_TO_IMAGE = (
    Part(name="unet", library="diffusers", class_name="UNet2DConditionModel"),
    Part(name="vae", library="diffusers", class_name="AutoencoderKL"),
    Part(name="text_encoder", library="transformers", class_name="CLIPTextModel", stem="model"),
)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object at ``path``. Raises :class:`UserError` naming the file if there is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} must be a configuration of at most {MOST_BYTES // 2**20} MB")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(value).__name__}")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of a network. Raises :class:`UserError` for an impossible value."""
    config = read_json(path)
    for key, value in _entries(config):
        if isinstance(value, list) and len(value) > MOST_IN_A_LIST:
            raise UserError(
                f"{path}: {key} must be a list of at most {MOST_IN_A_LIST}, got {len(value)}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path}: {key} must be a finite number, got {value}")
        limit = MOST_LAYERS if "layers" in key else LARGEST_NUMBER
        if isinstance(value, int) and abs(value) > limit:
            raise UserError(f"{path}: {key} must be at most {limit}, got {str(value)[:20]}")
    return config


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a configuration with the name of its entry."""
    yield key, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _entries(inner, str(name))
    elif isinstance(value, list) and len(value) <= MOST_IN_A_LIST:
        for inner in value:
            yield from _entries(inner, key)


def tensors_in(folder: Path, stem: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """``{name: (shape, safetensors' name of the type)}`` of the weights ``stem`` in ``folder``, in
    one file or in several.

    Raises :class:`UserError` naming the file that is missing or cannot be read, and the likely
    cause.
    """
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}{INDEX}"
    if index.is_file() and not whole.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) for name in weight_map.values()
        ):
            raise UserError(f"{index} must have a weight_map of names to files")
        files = [folder / name for name in sorted(set(weight_map.values()))]
        if any(file.parent != folder for file in files):
            raise UserError(f"{index} must name files beside it")
    else:
        files = [whole]
    tensors: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in files:
        if not file.is_file():
            raise UserError(_absent(file, folder, stem))
        tensors |= header_of(file)
    return tensors


def _absent(file: Path, folder: Path, stem: str) -> str:
    """A message that ``file`` is missing, and what is there instead."""
    if file.is_symlink() and not file.exists():
        return f"{file} is a link to {os.readlink(file)}, which is not there; download it again"
    if file.exists():
        return f"{file} must be a file, but it is a folder, a pipe or a device"
    others = sorted(path.name for path in folder.glob(f"{stem}*.safetensors"))
    if any("-of-" in name for name in others) and file.name == f"{stem}.safetensors":
        return f"{folder} holds {others[0]}, a piece of the weights, without {stem}{INDEX}"
    if others and file.name == f"{stem}.safetensors":
        variant = others[0][len(stem) : -len(".safetensors")].strip(".-")
        return (
            f"{folder} holds only the variant {variant!r} of the weights ({others[0]}), which is "
            f"not loaded; "
            f"rename it to {file.name}, or save the model again without a variant"
        )
    return f"{file} is missing"


def header_of(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Like :func:`tensors_in`, for one safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            return {
                name: (tuple(part.get_shape()), str(part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no readable safetensors file: {_cause(file, error)}") from error


def _cause(file: Path, error: Exception) -> str:
    """Why ``file`` is not a safetensors file, judging by its first bytes."""
    try:
        with file.open("rb") as opened:
            start = opened.read(64)
    except OSError as refused:
        return str(refused.strerror or refused)
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs; fetch the file itself with `git lfs pull`"
    if not start:
        return "it is empty"
    if start.startswith((b"PK", b"\x80")):
        return "it is a pickle under another name, which is never loaded"
    if start.lstrip().startswith((b"<", b"{")):
        return "it is text, perhaps an error page; download it again"
    return f"damaged or cut short ({first_line(error)}); download it again"


def mismatch(
    expected: Mapping[str, Tensor],
    actual: Mapping[str, tuple[tuple[int, ...], str]],
    class_name: str,
) -> str | None:
    """In one line, why the tensors ``actual`` are not the ``expected`` weights of a ``class_name``;
    ``None`` if they are.

    Names are compared without a leading ``text_model.``, which transformers adds and removes; known
    buffers do not count.
    """

    def bare(name: str) -> str:
        return name.removeprefix("text_model.")

    wanted = {
        bare(name): value for name, value in expected.items() if not name.endswith(KNOWN_BUFFERS)
    }
    present = {
        bare(name): part for name, part in actual.items() if not name.endswith(KNOWN_BUFFERS)
    }
    missing = [name for name in wanted if name not in present]
    unexpected = [name for name in present if name not in wanted]
    lines = []
    if missing:
        lines.append(
            f"{len(missing)} of {len(wanted)} weights of a {class_name} are missing, the first is "
            f"{missing[0]}"
        )
    if unexpected:
        lines.append(f"{len(unexpected)} are not its own, the first is {unexpected[0]}")
    shapes = [
        name
        for name, value in wanted.items()
        if name in present and present[name][0] != tuple(value.shape)
    ]
    if shapes:
        first = shapes[0]
        got = (
            f"the first is {first}, {list(present[first][0])} where the network has "
            f"{list(wanted[first].shape)}"
        )
        lines.append(f"{len(shapes)} have another shape, {got}")
    floats = [
        name for name, value in wanted.items() if name in present and value.is_floating_point()
    ]
    types = [name for name in floats if present[name][1] not in FLOATS]
    if types:
        lines.append(
            f"{len(types)} are not floating-point numbers, the first is {types[0]}, "
            f"{present[types[0]][1]}"
        )
    if not lines:
        return None
    return "; ".join(lines) + _likely(missing, unexpected)


def _likely(missing: list[str], unexpected: list[str]) -> str:
    """The likely cause, in brackets, if the unknown names suggest one; empty otherwise."""
    if any("lora" in name for name in unexpected):
        return " (adapters of LoRA: add them to the weights before saving)"
    for prefix in {
        unexpected[0][: -len(name)]
        for name in missing
        if unexpected and unexpected[0].endswith(f".{name}")
    }:
        if all(name.removeprefix(prefix) in missing for name in unexpected):
            return (
                f" (every name begins with {prefix!r}: saved from "
                f"{WRAPPERS.get(prefix, 'something around the network')})"
            )
    known = next(
        (
            why
            for prefix, why in WRAPPERS.items()
            if unexpected and unexpected[0].startswith(prefix)
        ),
        None,
    )
    return "" if known is None else f" ({known})"


def outline(folder: Path, part: Part) -> nn.Module:
    """The network in ``folder`` on the ``meta`` device: its architecture without weights, after the
    names, shapes and types of the weights were checked. Raises :class:`UserError`, one line, naming
    the file and what is wrong.
    """
    path = folder / "config.json"
    config = read_config(path)
    class_name = config.get("_class_name", part.class_name)
    if part.library == "transformers" and str(config.get("model_type", "clip_text_model")) not in (
        "clip_text_model",
        "clip",
    ):
        class_name = str(config["model_type"])
    if class_name != part.class_name:
        raise UserError(f"{path} must describe a {part.class_name}, got a {class_name}")
    try:
        network = _build(part, config)
    except Exception as error:  # An odd configuration can make a constructor raise anything.
        raise UserError(f"{path} describes no {part.class_name}: {first_line(error)}") from error
    tensors = tensors_in(folder, part.stem)
    rename = getattr(network, "_fix_state_dict_keys_on_load", None)
    if rename is not None:  # Old autoencoders' attention names, which diffusers converts itself.
        rename(tensors)
    if wrong := mismatch(network.state_dict(), tensors, part.class_name):
        raise UserError(f"{folder}: {wrong}")
    return network


def _build(part: Part, config: dict[str, Any]) -> nn.Module:
    library: Any = importlib.import_module(part.library)
    network_class = getattr(library, part.class_name)
    with torch.device("meta"):
        if part.library == "diffusers":
            built = network_class.from_config(config)
        else:
            options = config.get("text_config", config)
            built = network_class(network_class.config_class.from_dict(options))
    network: nn.Module = built.eval()
    return network


def refuse_incomplete(network: nn.Module, info: Mapping[str, Any], where: Path) -> None:
    """After loading: raises :class:`UserError` unless the library reports that every weight came
    from the file and the file holds no others, and every number is finite. ``info``: the library's
    loading information.
    """
    for key, what in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "not the network's own"),
        ("mismatched_keys", "of another shape"),
        ("error_msgs", "not readable"),
    ):
        names = sorted(str(name) for name in info.get(key) or ())
        names = [name for name in names if not name.endswith(KNOWN_BUFFERS)]
        if names:
            raise UserError(f"{where}: {len(names)} weights are {what}, the first is {names[0]}")
    for name, value in network.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{where}: the weights {name} hold numbers that are not finite")
