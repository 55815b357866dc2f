"""LPIPS: how unlike two images look, by a network and weights fitted to people's judgements.

Zhang et al. 2018, arXiv 1801.03924, version 0.1 with AlexNet, as torchmetrics computes it: per
layer the squared difference of unit-length channels, weighted, averaged over the image, summed over
five layers. 0 for equal images, lower is nearer. The weights of the layers come with torchmetrics;
the trunk is torchvision's AlexNet for ImageNet, read from a local file and never downloaded.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import UserError
from bench.metrics.fid import _tensors_only
from bench.metrics.target import Values

NAME = "alex-v0.1"
#: AlexNet's five convolutions, by their numbers in ``features``.
LAYERS = (0, 3, 6, 8, 10)
BATCH = 64


def distance(
    images: Tensor, originals: Tensor, trunk: Path, device: str | torch.device = "cpu"
) -> Values:
    """The LPIPS of each image to its original, (n,) float64, at least 0.

    images, originals: (n > 0, 3, h, w) uint8, of at least 32 pixels a side; they are taken to
    [-1, 1], as the network was fitted. ``trunk``: safetensors with torchvision's names. Raises
    :class:`UserError` without torchmetrics or for another file, ``ValueError`` for other images.
    """
    for name, values in (("images", images), ("originals", originals)):
        good = values.dtype == torch.uint8 and values.dim() == 4 and values.shape[1] == 3
        if not good or values.shape != originals.shape or min(values.shape[2:]) < 32:
            raise ValueError(
                f"{name} must be uint8 (n, 3, h, w), of at least 32 pixels a side and alike on "
                f"both sides, got {values.dtype} {tuple(values.shape)}"
            )
    network = _network(trunk).to(device)
    rows = []
    with torch.no_grad():
        for one, other in zip(images.split(BATCH), originals.split(BATCH), strict=True):
            pair = [side.to(device).float() / 127.5 - 1 for side in (one, other)]
            rows.append(network(*pair).flatten().double().cpu().numpy())
    return np.concatenate(rows)


def checked(trunk: Path) -> dict[str, Tensor]:
    """The convolutions in ``trunk``. Raises :class:`UserError` without torchmetrics, or for a file
    that is not there, is no safetensors or has other weights than AlexNet's.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise UserError("LPIPS needs torchmetrics: pip install 'castlewalls[lpips]'")
    if not trunk.is_file():
        raise UserError(f"there is no AlexNet at {trunk}; docs/inpainting.md says how to get it")
    try:
        weights = load_file(trunk)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{trunk} must be AlexNet as safetensors, got {error}") from error
    with torch.device("meta"):
        wanted = _empty()
    for layer, convolution in zip(LAYERS, wanted, strict=True):
        for name, value in convolution.state_dict().items():
            there = weights.get(f"features.{layer}.{name}")
            if there is None or there.shape != value.shape:
                shape = None if there is None else tuple(there.shape)
                raise UserError(
                    f"{trunk}: features.{layer}.{name} must be {tuple(value.shape)}, got {shape}"
                )
    return weights


def _empty() -> list[nn.Conv2d]:
    sizes = ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))
    return [nn.Conv2d(before, after, kernel) for before, after, kernel in sizes]


def _network(trunk: Path) -> nn.Module:
    weights = checked(trunk)
    from torchmetrics.functional.image.lpips import _LPIPS

    # A random trunk is asked for, since any other would be downloaded; every weight is replaced.
    with torch.random.fork_rng(devices=[]), _tensors_only():
        network: Any = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    convolutions = [one for one in network.net.modules() if isinstance(one, nn.Conv2d)]
    for layer, convolution in zip(LAYERS, convolutions, strict=True):
        convolution.load_state_dict(
            {name: weights[f"features.{layer}.{name}"].float() for name in ("weight", "bias")}
        )
    fitted: nn.Module = network.eval()
    return fitted
