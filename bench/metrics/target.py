"""How near a sample is to the adversary's target: mean squared error and structural similarity, one
number per image.

SSIM: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
TIP 2004, equations 13 to 17, with its 11 x 11 Gaussian window (standard deviation 1.5), K1 = 0.01,
K2 = 0.03. There is a window around every pixel, images being reflected at their edges: the same
numbers as torchmetrics 1.9, which the attacks' own code uses. scikit-image and older torchmetrics
drop the outer 5 pixels instead; at 16 x 16 that would be blind to a target in a corner.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
MARGIN = WINDOW // 2
WINDOW_SIGMA = 1.5
LUMINANCE_CONSTANT = 0.01**2
CONTRAST_CONSTANT = 0.03**2
# Large sets (2,048 images of 256 x 256) would need gigabytes in float64, so they are processed in
# pieces of about 32 MB.
ELEMENTS_AT_ONCE = 2**22

Values = npt.NDArray[np.float64]


def mse(images: Tensor, target: Tensor) -> Values:
    """Mean squared error of each image to ``target``, over channels and pixels; lower is nearer.

    images: (n, c, h, w), uint8 or float in [0, 1]; target: (c, h, w), float in [0, 1]. Returns (n,)
    float64 in [0, 1]. Raises ``ValueError`` on another shape, type or range.
    """
    goal = _unit_target(target)
    return _concatenate(
        (chunk - goal).square().mean(dim=(1, 2, 3)) for chunk in _unit_chunks(images, goal)
    )


def ssim(images: Tensor, target: Tensor) -> Values:
    """Mean structural similarity of each image to ``target``, over channels and pixels; 1 is
    identical, higher is nearer.

    images: (n, c, h, w), uint8 or float in [0, 1]; target: (c, h, w), float in [0, 1]; both sides
    at least 6 pixels. Returns (n,) float64 in [-1, 1]. Raises ``ValueError`` on another shape, type
    or range.
    """
    goal = _unit_target(target)
    if min(goal.shape[1:]) <= MARGIN:
        raise ValueError(
            f"ssim: images must be larger than {MARGIN} x {MARGIN} pixels, got "
            f"{tuple(goal.shape[1:])}"
        )
    mean_goal = _local_mean(goal[None])
    variance_goal = _local_mean(goal[None].square()) - mean_goal.square()

    def similarity(chunk: Tensor) -> Tensor:
        mean = _local_mean(chunk)
        variance = _local_mean(chunk.square()) - mean.square()
        covariance = _local_mean(chunk * goal) - mean * mean_goal
        luminance = (2 * mean * mean_goal + LUMINANCE_CONSTANT) / (
            mean.square() + mean_goal.square() + LUMINANCE_CONSTANT
        )
        structure = (2 * covariance + CONTRAST_CONSTANT) / (
            variance + variance_goal + CONTRAST_CONSTANT
        )
        return (luminance * structure).mean(dim=(1, 2, 3))

    return _concatenate(similarity(chunk) for chunk in _unit_chunks(images, goal))


def best_constant_mse(target: Tensor) -> float:
    """The smallest MSE that any one-colour image can have to ``target``: its pixels' variance about
    their mean colour.

    A collapsed generator reaches it. target: (c, h, w), float in [0, 1]. In [0, 0.25]; 0 for a
    flat target.
    """
    goal = _unit_target(target)
    return float((goal - goal.mean(dim=(1, 2), keepdim=True)).square().mean())


def black_mse(target: Tensor) -> float:
    """The MSE of a black image to ``target``: the error of an inversion that recovers nothing.

    target: (c, h, w), float in [0, 1]. In [0, 1].
    """
    return float(_unit_target(target).square().mean())


def cosine(images: Tensor, target: Tensor) -> Values:
    """Cosine of each image with ``target``, both as vectors of [-1, 1] (0 is mid grey), as what an
    attack on the noise adds to it; 1 is the same direction, higher is nearer. Whatever has no
    length has no direction: 0.

    images: (n, c, h, w), uint8 or float in [0, 1]; target: (c, h, w), float in [0, 1]. Returns (n,)
    float64 in [-1, 1]. Raises ``ValueError`` on another shape, type or range, and for a target of
    mid grey alone.
    """
    goal = _direction(target)
    return _concatenate(
        # Rounding may lead beyond 1, where no cosine is.
        F.cosine_similarity((2 * chunk - 1).flatten(1), goal.flatten()[None]).clamp(-1, 1)
        for chunk in _unit_chunks(images, goal)
    )


def best_constant_cosine(target: Tensor) -> float:
    """The largest :func:`cosine` that any one-colour image has with ``target``: the length of its
    mean colour to its own, in [-1, 1]. An image that is mostly background is near 1.

    target: (c, h, w), float in [0, 1]. In [0, 1]; 1 for a flat target. Raises ``ValueError`` as
    :func:`cosine` does.
    """
    goal = _direction(target)
    flat = goal.mean(dim=(1, 2), keepdim=True).expand_as(goal)
    return min(1.0, float(flat.norm() / goal.norm()))


def _direction(target: Tensor) -> Tensor:
    goal = 2 * _unit_target(target) - 1
    if not bool(goal.any()):
        raise ValueError("a target of mid grey has no direction, and no cosine")
    return goal


def _local_mean(images: Tensor) -> Tensor:
    """Gaussian-weighted mean around every pixel, the image reflected about its outermost pixels:
    (n, c, h, w) in and out.
    """
    offsets = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - MARGIN
    weights = torch.exp(-offsets.square() / (2 * WINDOW_SIGMA**2))
    weights = weights / weights.sum()
    planes = F.pad(images, (MARGIN,) * 4, mode="reflect").flatten(0, 1).unsqueeze(1)
    planes = F.conv2d(planes, weights.view(1, 1, WINDOW, 1))
    planes = F.conv2d(planes, weights.view(1, 1, 1, WINDOW))
    return planes.view(images.shape)


def _unit_target(target: Tensor) -> Tensor:
    if target.dim() != 3 or not target.is_floating_point():
        raise ValueError(
            f"target must be a float (c, h, w) tensor, got {target.dtype} {tuple(target.shape)}"
        )
    return _checked_range("target", target.detach().double())


def _unit_chunks(images: Tensor, goal: Tensor) -> Iterator[Tensor]:
    """``images`` as float64 in [0, 1] on the target's device, a bounded number at a time."""
    if images.dim() != 4 or images.shape[1:] != goal.shape or len(images) == 0:
        raise ValueError(
            f"images must be (n > 0, *{tuple(goal.shape)}) like the target, got "
            f"{tuple(images.shape)}"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"images must be uint8 or float, got {images.dtype}")
    for chunk in torch.split(images.detach(), max(1, ELEMENTS_AT_ONCE // goal.numel())):
        values = chunk.to(goal.device).double()
        yield values / 255 if images.dtype == torch.uint8 else _checked_range("images", values)


def _checked_range(name: str, values: Tensor) -> Tensor:
    # Written so that NaN fails too.
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"{name} must be in [0, 1], got {float(values.min()):.4g} to {float(values.max()):.4g}"
        )
    return values


def _concatenate(chunks: Iterator[Tensor]) -> Values:
    return np.concatenate([chunk.cpu().numpy() for chunk in chunks])
