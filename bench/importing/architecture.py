"""Whether a published network is the testbed's, by its configuration.

Weights of the same names and shapes can be another function's: the number of attention heads, an
activation, the groups of a normalisation or a latent's scale change no shape.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bench.diffusion.checkpoint import read_config
from bench.errors import UserError
from bench.text import one_line

#: Entries of diffusers' configurations without an effect on what a trained network computes, but
#: for its rounding.
_IDLE = frozenset({"sample_size", "dropout", "force_upcast", "upcast_attention"})
#: The entries of a text encoder's that have one; the others are its vocabulary's and training's.
_OF_TEXT = ("hidden_act", "layer_norm_eps", "num_attention_heads", "num_hidden_layers")


def refuse_another(network: nn.Module, path: Path) -> None:
    """Raises :class:`UserError` if the configuration at ``path`` describes a network that computes
    something else than ``network``, a testbed's, would with the same weights.
    """
    theirs = read_config(path)
    ours, usual = _described(network)
    nested = theirs.get("text_config")  # of a whole CLIP, whose text encoder it is
    if isinstance(nested, dict):
        theirs = nested
    for name, value in ours.items():
        got = theirs.get(name, usual.get(name))
        if not _same(value, got):
            raise UserError(
                f"{path}: {name} must be {one_line(repr(value), 80)}, as of the testbed's "
                f"{type(network).__name__}, got {one_line(repr(got), 80)}: weights of the same "
                f"shapes compute something else there"
            )


def _described(network: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The entries that count, and what each is where a configuration does not say."""
    config = network.config
    if hasattr(config, "to_dict"):  # transformers
        usual = type(config)().to_dict()
        return {name: getattr(config, name) for name in _OF_TEXT}, usual
    arguments = inspect.signature(type(network).__init__).parameters
    usual = {name: one.default for name, one in arguments.items() if name != "self"}
    return {name: config[name] for name in usual if name in config and name not in _IDLE}, usual


def _same(ours: Any, theirs: Any) -> bool:
    """One number stands for a list of it, and null for false, as diffusers reads them."""
    if isinstance(ours, (list, tuple)) and isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, (list, tuple)) or isinstance(theirs, (list, tuple)):
        several, one = (ours, theirs) if isinstance(ours, (list, tuple)) else (theirs, ours)
        return len(several) > 0 and all(_same(value, one) for value in several)
    return bool(ours == theirs) or (ours in (None, False) and theirs in (None, False))
