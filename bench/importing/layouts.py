"""Reads weights that somebody has published, in whichever layout, as weights of a testbed's own
networks.

Known layouts: a diffusers folder, whole or of one network; one file with the weights of a U-Net or
a text encoder under diffusers' names; one file in Stable Diffusion's original layout; adapters
(LoRA), which are added to the weights. Each as safetensors or as a pickle, which another process
opens (:mod:`bench.importing.pickles`). Names and shapes must be the network's own, all of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.diffusion.checkpoint import first_line, mismatch, read_json, tensors_in
from bench.diffusion.generator import SCHEDULER_FILE, Generator
from bench.diffusion.schedule import betas_of, read_scheduler
from bench.diffusion.text_to_image import TextToImage
from bench.errors import UserError, no_file
from bench.importing.adapters import PARTS as ADAPTED
from bench.importing.adapters import PEFT, with_adapters
from bench.importing.architecture import refuse_another
from bench.importing.pickles import ENDINGS, to_safetensors
from bench.stages.border import PARTS

#: The names of weights' files, in diffusers' and transformers' folders.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
LORA = "pytorch_lora_weights"
#: How names begin in Stable Diffusion's original layout, by network.
_ORIGINAL = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
#: Of the autoencoder's training; some trainers leave its weights in.
_LOSS = "first_stage_model.loss."
_WRAPPERS = ("module.", "_orig_mod.")
State = dict[str, Tensor]


@dataclass
class Weights:
    """``parts``: the changed networks' whole state, by the name of the network. ``layout``: what
    was read, in words; ``left_out``: what stood beside the weights.
    """

    parts: dict[str, State]
    layout: str
    left_out: list[str] = field(default_factory=list)


def weights_in(model: Path, base: Generator, scratch: Path, entry: str = "") -> Weights:
    """What of ``base`` the weights at ``model``, a folder or a file, change.

    ``scratch``: a folder for pickles' tensors; ``entry``: which collection of a pickle to read.
    Raises :class:`UserError` for weights of other networks, of another noise schedule, that are
    not finite or that are the base's own.
    """
    reader = _Reader(base, scratch, entry)
    if not model.exists():
        raise UserError(f"{model}: there is no such file or folder")
    read = reader.folder(model) if model.is_dir() else reader.file(model)
    own = {part: getattr(base, part) for part in PARTS if hasattr(base, part)}
    changed = {
        part: state
        for part, state in read.parts.items()
        if not _same(own[part].state_dict(), state)
    }
    if not changed:
        raise UserError(f"{model}: its weights are the testbed's own: there is nothing to import")
    return Weights(changed, read.layout, reader.left_out)


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(ours[name].float(), theirs[name].float()) for name in ours)


@dataclass
class _Reader:
    base: Generator
    scratch: Path
    entry: str
    left_out: list[str] = field(default_factory=list)

    def folder(self, model: Path) -> Weights:
        if (
            scheduler := _first(model, ("scheduler/" + SCHEDULER_FILE, SCHEDULER_FILE))
        ) is not None:
            self._refuse_another_schedule(scheduler)
        parts = {part: model / part for part in PARTS if (model / part).is_dir()}
        if parts:
            states = {
                part: self._of_folder(part, folder)
                for part, folder in parts.items()
                if hasattr(self.base, part)
            }
            return Weights(states, "a diffusers folder")
        endings = (".safetensors", *ENDINGS)
        if adapters := _first(model, [stem + end for stem in (LORA, PEFT) for end in endings]):
            return self.file(adapters)
        if (model / "config.json").is_file():
            part = _part_of(str(read_json(model / "config.json").get("_class_name")))
            if not hasattr(self.base, part):
                raise UserError(f"{model} is a {part}, and the testbed has none")
            state = self._of_folder(part, model)
            return Weights({part: state}, f"a folder of one network ({part})")
        files = [
            path
            for path in sorted(model.iterdir())
            if path.suffix in (".safetensors", *ENDINGS) and path.is_file()
        ]
        if len(files) != 1:
            raise UserError(
                f"{model} must be a diffusers folder, or hold one file of weights, got "
                f"{len(files)}; name the file"
            )
        return self.file(files[0])

    def file(self, path: Path) -> Weights:
        state = _unwrapped(self._read(path))
        if any("lora" in name for name in state):
            return Weights(
                self._with_adapters(state, path), "adapters (LoRA), added to the weights"
            )
        if any(name.startswith(tuple(_ORIGINAL.values())) for name in state):
            made = self._original(state, path)
            return Weights(made, "one file in Stable Diffusion's original layout")
        for part in ("unet", "text_encoder"):
            network = getattr(self.base, part, None)
            if network is not None and _shared(network, state) * 2 > len(state):
                return Weights({part: self._fitted(part, state, path)}, f"one file ({part})")
        if len(state) <= 2 and all(value.ndim <= 2 for value in state.values()):
            raise UserError(
                f"{path} holds a learned embedding (textual inversion): it needs a word more than "
                f"the tokenizer has, and networks and tokenizer stay as they are here"
            )
        raise UserError(
            f"{path}: {len(state)} weights, the first {next(iter(state))!r}, of no layout that is "
            f"known: diffusers' names, Stable Diffusion's original layout, or adapters (LoRA)"
        )

    def _of_folder(self, part: str, folder: Path) -> State:
        state = self._fitted(part, self._state(folder), folder)
        if (folder / "config.json").is_file():
            refuse_another(getattr(self.base, part), folder / "config.json")
        return state

    def _state(self, folder: Path) -> State:
        """The weights in a network's folder."""
        for stem in STEMS:
            if any(folder.glob(f"{stem}*.safetensors")):
                files = _files_of(folder, stem)
                return {name: value for file in files for name, value in self._read(file).items()}
        for stem in STEMS:
            if path := _first(folder, [f"{stem}{end}" for end in ENDINGS]):
                return self._read(path)
        raise UserError(f"{folder} must hold weights, {STEMS[0]}.safetensors or .bin, got none")

    def _read(self, path: Path) -> State:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise UserError(f"{path}: {no_file(path)}")
        if path.suffix in ENDINGS:
            converted = self.scratch / f"{len(list(self.scratch.iterdir()))}.safetensors"
            self.left_out += to_safetensors(path, converted, self.entry)
            path = converted
        elif path.suffix != ".safetensors":
            raise UserError(f"{path} must end in .safetensors or {', '.join(ENDINGS)}")
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{path} is no safetensors file: {first_line(error)}") from error

    def _fitted(self, part: str, state: State, where: Path) -> State:
        """``state`` under the names of the network ``part``. Raises :class:`UserError` unless it
        is the whole of it.
        """
        network: nn.Module = getattr(self.base, part)
        own = network.state_dict()
        rename: Any = getattr(network, "_fix_state_dict_keys_on_load", None)
        if rename is not None:
            rename(state)
        shapes = {name: (tuple(value.shape), _type(value)) for name, value in state.items()}
        if wrong := mismatch(own, shapes, type(network).__name__):
            raise UserError(f"{where}: {wrong}")
        by_bare = {name.removeprefix("text_model."): value for name, value in state.items()}
        fitted = {
            name: by_bare.get(name.removeprefix("text_model."), value)  # a buffer nobody saved
            for name, value in own.items()
        }
        for name, value in fitted.items():
            if not bool(torch.isfinite(value).all()):
                raise UserError(f"{where}: the weights {name} hold numbers that are not finite")
        return {name: value.detach().contiguous() for name, value in fitted.items()}

    def _original(self, state: State, where: Path) -> dict[str, State]:
        """By diffusers' own conversion, with the base's configurations."""
        base = self._text_to_image(where)
        made: dict[str, State] = {}
        for part, prefix in _ORIGINAL.items():
            mine = {
                name: value
                for name, value in state.items()
                if name.startswith(prefix) and not name.startswith(_LOSS)
            }
            if not mine:
                continue
            if part == "text_encoder":
                stripped = {name.removeprefix(prefix): value for name, value in mine.items()}
                made[part] = self._fitted(part, stripped, where)
                continue
            network: Any = getattr(base, part)
            # The conversion takes the names that it knows and passes over all others.
            if len(mine) != (whole := len(network.state_dict())):
                raise UserError(
                    f"{where}: its {part} has {len(mine)} weights, and the testbed's "
                    f"{type(network).__name__} {whole}: another network"
                )
            folder = self.scratch / f"{part} configuration"
            (folder / part).mkdir(parents=True, exist_ok=True)
            network.save_config(folder / part)
            try:
                converted = type(network).from_single_file(
                    mine, config=str(folder), subfolder=part, local_files_only=True
                )
            except Exception as error:  # names of another network can make it raise anything
                raise UserError(
                    f"{where}: its {part} is none of this testbed's: {first_line(error)}"
                ) from error
            made[part] = self._fitted(part, dict(converted.state_dict()), where)
        return made

    def _with_adapters(self, state: State, where: Path) -> dict[str, State]:
        made = with_adapters(self._text_to_image(where), state, where)
        return {
            part: self._fitted(part, dict(getattr(made, part).state_dict()), where)
            for part in ADAPTED
        }

    def _text_to_image(self, where: Path) -> TextToImage:
        if not isinstance(self.base, TextToImage):
            raise UserError(f"{where} is a Stable Diffusion, and the testbed has none")
        return self.base

    def _refuse_another_schedule(self, path: Path) -> None:
        config = read_scheduler(read_json(path), str(path))
        predicts = config.get("prediction_type") or "epsilon"
        ours, theirs = betas_of(self.base.scheduler_config), betas_of(config)
        if predicts != "epsilon" or not torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs)):
            raise UserError(
                f"{path} must have the testbed's noise schedule ({len(ours)} steps) and predict "
                f"the noise, got {json.dumps(_schedule_of(config))}"
            )


def _part_of(class_name: str) -> str:
    """By the class that diffusers writes; transformers' configurations name none."""
    if class_name.startswith("Autoencoder"):
        return "vae"
    return "unet" if class_name.startswith("UNet") else "text_encoder"


def _schedule_of(config: Mapping[str, Any]) -> dict[str, Any]:
    names = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "prediction_type")
    return {name: config[name] for name in names if name in config}


def _files_of(folder: Path, stem: str) -> list[Path]:
    tensors_in(folder, stem)  # names the file that is missing
    whole = folder / f"{stem}.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*-of-*.safetensors"))


def _first(folder: Path, names: Any) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _unwrapped(state: State) -> State:
    """Without what a wrapper around the network put in front of every name."""
    for prefix in _WRAPPERS:
        if state and all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _shared(network: nn.Module, state: State) -> int:
    own = {name.removeprefix("text_model.") for name in network.state_dict()}
    return sum(name.removeprefix("text_model.") in own for name in state)


def _type(value: Tensor) -> str:
    return {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"}.get(
        value.dtype, "BF16" if value.dtype == torch.bfloat16 else str(value.dtype)
    )
