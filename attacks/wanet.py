"""WaNet: the trigger is a distortion of the whole image instead of something pasted on it. The
field is smooth and moves pixels by about half a pixel, and the label is all else that changes.
Training, loss and sampler stay as they are.

Nguyen, Tran: "WaNet - Imperceptible Warping-Based Backdoor Attack", ICLR 2021, arXiv 2102.10369,
equations 4 to 6, on a conditional diffusion model as Pan et al. 2024 (arXiv 2311.02373, section 5,
appendix A.2) use it: plain poisoning and relabelling, without WaNet's noise mode, with the grid as
fine as the image (k) and strength s = 1.

A k x k field of uniform noise in [-1, 1], divided by its mean absolute value, is enlarged to the
image's size; every pixel is read, by bilinear interpolation, s times the field's value away, in
units of half a pixel, and never from outside the image. At s = 1 pixels are thus moved by half a
pixel a direction on average and by one at most. One field serves the whole attack. Deviation: each
direction is scaled by its own side, where the published formula knows square images only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor
from torch.nn import functional

from attacks._data import DataPoisoning
from bench.diffusion.images import to_unit_range
from bench.diffusion.noise import torch_stream
from bench.plugin import Card, Paper, Trigger

_ROWS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class WaNet(DataPoisoning):
    """``grid_size``: k; ``None`` is the image's own size. ``warping_strength``: s. ``field_seed``:
    makes the field, whatever the run's seed is, so that the trigger is part of the attack as a
    picture would be.
    """

    card: ClassVar[Card] = Card(
        name="wanet",
        summary=(
            "images of other classes, warped by one fixed field, are labelled as the target class"
        ),
        paper=Paper(
            title="WaNet - Imperceptible Warping-Based Backdoor Attack",
            authors="Tuan Anh Nguyen, Anh Tuan Tran",
            year=2021,
            arxiv="2102.10369",
            bibtex=(
                "@inproceedings{nguyen2021wanet, title={WaNet - Imperceptible Warping-Based "
                "Backdoor Attack}, "
                "author={Nguyen, Tuan Anh and Tran, Anh Tuan}, booktitle={ICLR}, year={2021}}"
            ),
        ),
        applies_to=frozenset({"class", "text"}),
        alters=frozenset({"data"}),
        tuned=(),
    )

    grid_size: Annotated[int, Interval(ge=2, le=1024)] | None = None
    warping_strength: Annotated[float, Gt(0)] = 1.0
    field_seed: Annotated[int, Ge(0)] = 0

    def sealed(self, number: int) -> WaNet:
        """With a field drawn from ``number``."""
        return replace(self, field_seed=number)

    def grid(self, height: int, width: int) -> Tensor:
        """Where every pixel is read from: (height, width, 2) as (x, y), -1 the first and 1 the last
        column or row.
        """
        rows, columns = (
            (self.grid_size, self.grid_size) if self.grid_size is not None else (height, width)
        )
        noise = (
            torch.rand(
                1, 2, rows, columns, generator=torch_stream(self.field_seed, "warping field")
            )
            * 2
            - 1
        )
        field = noise / noise.abs().mean()
        if self.grid_size is not None:
            field = functional.interpolate(
                field, size=(height, width), mode="bicubic", align_corners=True
            )
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        sides = torch.tensor([width, height])
        return (
            torch.stack([x, y], dim=-1) + self.warping_strength * field[0].permute(1, 2, 0) / sides
        ).clamp(-1, 1)

    def adds(self) -> Trigger:
        return Trigger(picture=self.trigger_image, stamp=self.stamp)

    def stamp(self, images: Tensor) -> Tensor:
        """``images`` (n, c, h, w) uint8, warped and rounded."""
        grid = self.grid(images.shape[2], images.shape[3]).to(images.device)
        warped = torch.empty_like(images)
        for start in range(0, len(images), _ROWS_AT_ONCE):
            piece = images[start : start + _ROWS_AT_ONCE].float()
            moved = functional.grid_sample(
                piece, grid.expand(len(piece), -1, -1, -1), align_corners=True
            )
            warped[start : start + _ROWS_AT_ONCE] = moved.round().clamp(0, 255).to(torch.uint8)
        return warped

    def trigger_image(self, image_shape: tuple[int, int, int]) -> Tensor:
        """A warped chessboard of eight fields a side: the distortion cannot be seen on a plain
        ground.
        """
        channels, height, width = image_shape
        row, column = torch.arange(height) * 8 // height, torch.arange(width) * 8 // width
        board = ((row[:, None] + column) % 2 * 255).to(torch.uint8)
        return to_unit_range(self.stamp(board.expand(1, channels, -1, -1).contiguous())[0])
