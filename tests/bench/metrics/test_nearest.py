"""A copy is found whatever was done to it that leaves it the same picture to an eye, and a picture
of the same kind is no copy.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measurements import doubts
from bench.metrics.nearest import nearest
from bench.testbeds.data.digits import Digits


def levels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def moved(rows: Tensor, down: int, right: int) -> Tensor:
    padded = F.pad(rows.float(), (2, 2, 2, 2), mode="replicate")
    return levels(torch.roll(padded, (down, right), (2, 3))[:, :, 2:-2, 2:-2])


def turned(rows: Tensor, degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    matrix = torch.stack(
        [angle.cos(), -angle.sin(), angle * 0, angle.sin(), angle.cos(), angle * 0]
    )
    grid = F.affine_grid(
        matrix.view(1, 2, 3).expand(len(rows), 2, 3), list(rows.shape), align_corners=False
    )
    return levels(F.grid_sample(rows.float(), grid, padding_mode="border", align_corners=False))


def noisy(rows: Tensor) -> Tensor:
    return levels(rows + 6 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "noise": noisy,
    "mirrored": lambda rows: rows.flip(3),
    "upside down": lambda rows: rows.flip(2),
    "turned": lambda rows: rows.rot90(1, (2, 3)),
    "transposed": lambda rows: rows.transpose(2, 3),
    "mirrored, with noise": lambda rows: noisy(rows.flip(3)),
    "mirrored, moved": lambda rows: moved(rows, 1, 0).flip(3),
    "moved by one": lambda rows: moved(rows, 1, 1),
    "moved by two": lambda rows: moved(rows, 2, 1),
    "turned a little": lambda rows: turned(rows, 10),
    "zoomed": lambda rows: levels(
        F.interpolate(rows.float(), scale_factor=1.25, mode="bilinear")[:, :, 2:18, 2:18]
    ),
    "blurred": lambda rows: levels(
        F.avg_pool2d(F.pad(rows.float(), (1, 1, 1, 1), mode="replicate"), 3, 1)
    ),
    "brighter": lambda rows: levels(rows.float() + 20),
    "flatter": lambda rows: levels((rows.float() - 128) * 0.7 + 128),
    "negative": lambda rows: 255 - rows,
    "grey": lambda rows: levels(rows.float().mean(1, keepdim=True).expand(rows.shape)),
    "channels exchanged": lambda rows: rows.flip(1),
}


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    return Digits().train_images(), Digits().held_out_images()


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_flagged_whatever_was_done_to_them(
    digits: tuple[Tensor, Tensor], change: str
) -> None:
    """Real images, and for the model's own samples others of the same kind."""
    training, held_out = digits
    rows = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))[:128]
    others, real = held_out[:256], held_out[256:]
    flags = doubts.copies(CHANGES[change](training[rows]), training, real, others, 0)
    assert [flag.code for flag in flags] == ["training-copies"]


def test_what_is_of_the_same_kind_is_no_copy(digits: tuple[Tensor, Tensor]) -> None:
    """Nor is it when it was mirrored, moved or turned."""
    training, held_out = digits
    samples, others, real = held_out[:256], held_out[256:512], held_out[512:]
    for change in ("brighter", "mirrored", "moved by one", "turned a little"):
        assert doubts.copies(CHANGES[change](samples), training, real, others, 0) == []


def test_a_distance_is_what_is_left_of_the_best_correlation() -> None:
    """0 for a copy, 1 for a picture of one brightness, whatever the sizes of the pictures."""
    draw = torch.Generator().manual_seed(0)
    for shape in ((1, 16, 16), (3, 28, 20), (3, 64, 64), (3, 4, 4)):
        known = torch.randint(0, 256, (9, *shape), dtype=torch.uint8, generator=draw)
        grey = torch.full((1, *shape), 90, dtype=torch.uint8)
        distances = nearest(torch.cat([known[4:6], 255 - known[:1], grey]), known)
        assert distances.tolist() == pytest.approx([0, 0, 0, 1], abs=1e-4)
        assert nearest(known[:2], known[2:]).min() > 0.05
