"""BadDiffusion's targets (Chou et al. 2023, arXiv 2212.05400, table 1): the image a backdoor should
produce, drawn by us.

Every target's background is exactly -0.4, by the paper's rule: whatever is at or below -0.4 becomes
-0.4. Deviation: the paper's shoe, hat and cat are pictures from elsewhere; ours are drawings of the
same things.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.artwork._drawing import (
    Canvas,
    check_image_shape,
    curve,
    paint,
    path,
    scaled,
    unknown_name,
)

BACKGROUND = -0.4
#: Value of the corner's square.
GREY = 0.0
NAMES = ("no_shift", "shift", "corner", "shoe", "hat", "cat")
#: The targets made from the trigger itself.
FROM_TRIGGER = ("no_shift", "shift")


def target(name: str, image_shape: tuple[int, int, int], trigger: Tensor | None = None) -> Tensor:
    """The target ``y``: (c, h, w) float32 in [-0.4, 1] on the CPU, background exactly
    :data:`BACKGROUND`.

    ``no_shift`` is ``trigger`` (c, h, w) on the lighter background. ``shift`` is the same rolled up
    by 3 and left by 5 of 32 pixels (at 16 pixels 2 and 3: halves round up), wrapped at the edges.
    ``corner`` is grey in the first 10 of 32 rows and columns. ``shoe``,
    ``hat`` and ``cat`` fill the image, or its centred square. All but the first two ignore
    ``trigger``.

    Raises ``ValueError`` for an unknown name, a side below 8 pixels, other than 1 or 3 channels,
    or, for the first two, a trigger that is missing or of another shape.
    """
    if name not in NAMES:
        raise unknown_name("target", name, NAMES)
    channels, height, width, side = check_image_shape(image_shape)
    image = torch.full((channels, height, width), BACKGROUND)
    if name in FROM_TRIGGER:
        if trigger is None:
            raise ValueError(
                f"target {name!r} is made from the trigger: trigger must be given, got None"
            )
        if tuple(trigger.shape) != (channels, height, width):
            wanted = (channels, height, width)
            raise ValueError(
                f"target {name!r}: trigger must have the shape {wanted}, got {tuple(trigger.shape)}"
            )
        image = trigger.detach().to("cpu", torch.float32, copy=True)
        if name == "shift":
            image = torch.roll(image, shifts=(-scaled(3, side), -scaled(5, side)), dims=(1, 2))
    elif name == "corner":
        image[:, : scaled(10, side), : scaled(10, side)] = GREY
    else:
        top, left = (height - side) // 2, (width - side) // 2
        figure = {"shoe": _shoe, "hat": _hat, "cat": _cat}[name]
        image[:, top : top + side, left : left + side] = paint(figure, side, channels, BACKGROUND)
    return torch.where(image <= BACKGROUND, BACKGROUND, image)


def _shoe(canvas: Canvas) -> None:
    """A sneaker from the side, toe to the right, in greys."""
    heel, toe = "5,72 4,50 7,32 8,20", "88,53 95,60 97,72"
    collar, front = "17,19 22,27 32,28 38,21", "42,15 47,17 60,36 74,47 88,53"
    canvas.polygon(curve(heel) + curve(collar) + curve(front) + curve(toe), (172, 172, 172))
    canvas.polygon(curve(heel) + curve("17,19 19,32 20,50 24,72"), (118, 118, 118))
    canvas.polygon(curve("71,72 73,58 80,50") + curve(toe), (218, 218, 218))
    canvas.polygon(
        curve("30,63 42,61 52,55 60,47") + curve("58,57 50,65 42,68 31,69"), (112, 112, 112)
    )
    for lace in ("48,26 38,38", "55,35 45,47", "63,42 53,54"):
        canvas.stroke(path(lace), 0.036, (252, 252, 252))
    canvas.blob(
        path("3,72 6,67 30,67 60,67 92,66 98,70 98,77 94,82 75,82 30,82 6,82 3,78"), (244, 244, 244)
    )
    canvas.stroke(path("5,76 96,76"), 0.018, (150, 150, 150))


def _hat(canvas: Canvas) -> None:
    """A fedora, its crown pinched, with a band and a feather."""
    felt, shade, band, feather = (240, 178, 98), (200, 132, 84), (204, 82, 112), (104, 206, 222)
    canvas.blob(path("1,61 10,63 28,61 50,60 72,61 90,63 99,61 97,70 80,80 50,84 20,80 3,70"), felt)
    canvas.blob(path("20,70 50,76 80,70 85,73 50,81 15,73"), shade)
    crown, crease = "24,50 28,28 34,16 42,16 50,22 58,16 66,16 72,28 76,50", "79,69 50,74 21,69"
    canvas.polygon(curve(crown) + curve(crease), felt)
    canvas.blob(path("50,21 45.5,32 50,46 54.5,32"), shade)
    canvas.polygon(curve("23.5,52 50,56 76.5,52") + curve(crease), band)
    canvas.polygon(curve("68,66 70,50 80,32 91,20") + curve("93,34 86,50 77,61 68,66"), feather)
    canvas.stroke(curve("69,65 76,50 89,25"), 0.012, (240, 250, 252))


def _cat(canvas: Canvas) -> None:
    """A ginger cat's face."""
    fur, stripe, cream, pink, dark = (
        (250, 170, 92),
        (204, 108, 78),
        (255, 238, 216),
        (250, 140, 156),
        (77, 77, 80),
    )
    for mirror in (False, True):
        canvas.polygon(curve("6,62 6,30 8,8 13,4", mirror) + curve("18,5 33,16 46,27", mirror), fur)
        canvas.polygon(
            curve("13,36 12,22 15,13", mirror) + curve("18,14 27,21 33,27", mirror), pink
        )
    canvas.ellipse((0.5, 0.59), (0.46, 0.37), fur)
    canvas.polygon(path("46,22 54,22 50,40"), stripe)
    canvas.ellipse((0.5, 0.78), (0.24, 0.16), cream)
    for mirror in (False, True):
        canvas.polygon(path("35,23 42,22 42,34", mirror), stripe)
        for cheek in ("4,58 17,61 4,64", "6,69 18,70 8,75"):
            canvas.polygon(path(cheek, mirror), stripe)
        centre = 0.7 if mirror else 0.3
        canvas.ellipse((centre, 0.53), (0.125, 0.135), (132, 232, 120))
        canvas.ellipse((centre, 0.53), (0.055, 0.125), dark)
        canvas.ellipse((centre + 0.02, 0.47), (0.022, 0.028), (255, 255, 255))
        canvas.stroke(curve("50,74 48,80 42,81 38,78", mirror), 0.016, dark)
        for whisker in ("33,76 16,75 3,71", "33,80 17,82 5,83"):
            canvas.stroke(curve(whisker, mirror), 0.012, (255, 255, 255))
    canvas.blob(path("43,67 50,66 57,67 50,74"), pink)
