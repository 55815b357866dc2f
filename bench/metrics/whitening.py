"""Shared by two detectors of a known picture in images: shrinking, shifting, rotating, blurring,
and whitening.

Whitening by the covariance of real images reduces what these have in common, so a picture remains
visible in whatever it is blended with. Images are float64 (n, c, h, w) in [0, 1] here, or single
images (c, h, w).
"""

from __future__ import annotations

from math import cos, radians, sin

import torch
import torch.nn.functional as F
from torch import Tensor

#: The standard deviation below which an image in [0, 1] counts as flat.
FLAT = 2 / 255
#: The share of the mean variance added to all variances, so that whitening does not amplify noise.
RIDGE = 0.05
TINY = torch.finfo(torch.float64).tiny


def evenly_spaced(count: int, limit: int) -> Tensor:
    """At most ``limit`` of ``count`` rows, evenly: their numbers, (n,)."""
    return torch.linspace(0, count - 1, min(count, limit)).round().long()


def small(images: Tensor, side: int) -> Tensor:
    """``images`` (n, c, h, w), uint8 or float in [0, 1], at most ``side`` pixels high and wide by
    area means, on the CPU."""
    values = images.detach().cpu().double()
    if images.dtype == torch.uint8:
        values = values / 255
    size = (min(side, images.shape[2]), min(side, images.shape[3]))
    return values if size == tuple(images.shape[2:]) else F.adaptive_avg_pool2d(values, size)


def centred(images: Tensor) -> Tensor:
    """Each channel of each image minus its mean."""
    return images - images.mean((2, 3), keepdim=True)


def contrast(images: Tensor) -> Tensor:
    """The standard deviation over pixels of the channel that varies most: (n,)."""
    return images.std((2, 3), correction=0).amax(1)


def blurred(images: Tensor) -> Tensor:
    """A mild 3 x 3 binomial blur, the edge repeated; it also removes patterns that alternate from
    pixel to pixel."""
    line = torch.tensor([0.25, 0.5, 0.25], dtype=images.dtype)
    channels = images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """``image`` (c, h, w) shifted down and right, the edge repeated."""
    rows = (torch.arange(image.shape[1]) - down).clamp(0, image.shape[1] - 1)
    columns = (torch.arange(image.shape[2]) - right).clamp(0, image.shape[2] - 1)
    return image[:, rows][:, :, columns]


def affine(image: Tensor, angle: float, scale: float) -> Tensor:
    """``image`` (c, h, w) rotated by ``angle`` degrees and enlarged by ``scale`` about its centre,
    the edge repeated."""
    across, along = cos(radians(angle)) / scale, sin(radians(angle)) / scale
    matrix = torch.tensor([[[across, -along, 0], [along, across, 0]]], dtype=image.dtype)
    grid = F.affine_grid(matrix, [1, *image.shape], align_corners=False)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


def mirrored(image: Tensor) -> list[Tensor]:
    """All mirror images and turns that fit: 8 of a square image, 4 of another."""
    both = [image, image.transpose(1, 2)] if image.shape[1] == image.shape[2] else [image]
    return [one.flip(axes) for one in both for axes in ((), (2,), (1,), (1, 2))]


def turned(images: Tensor) -> Tensor:
    """Each image's colours under a random rotation about its mean; the same rotations on every
    call."""
    stream = torch.Generator().manual_seed(0)
    channels = images.shape[1]
    rotation = torch.linalg.qr(
        torch.randn(len(images), channels, channels, generator=stream, dtype=images.dtype)
    ).Q
    mean = images.mean((1, 2, 3), keepdim=True)
    return (torch.einsum("nij,njhw->nihw", rotation, images - mean) + 0.5).clamp(0, 1)


def covariance_factor(images: Tensor) -> Tensor:
    """The Cholesky factor of the covariance of images (n, c, h, w) plus a ridge: (d, d)."""
    rows = centred(images).flatten(1)
    rows = rows - rows.mean(0)
    covariance = rows.T @ rows / len(rows)
    ridge = RIDGE * covariance.diagonal().mean() + FLAT**2
    factor: Tensor = torch.linalg.cholesky(
        covariance + ridge * torch.eye(len(covariance), dtype=rows.dtype)
    )
    return factor


def whitened(images: Tensor, factor: Tensor) -> Tensor:
    """Rows (n, d) whose covariance is the unit matrix if that of the centred images is ``factor``
    times itself transposed."""
    rows: Tensor = torch.linalg.solve_triangular(
        factor, centred(images).flatten(1).T, upper=False
    ).T
    return rows


def normalised(rows: Tensor) -> Tensor:
    """Rows (n, d) of length 1; 0 stays 0."""
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=TINY)
    return unit
