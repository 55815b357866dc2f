"""The contact sheet in the docs: every drawing is on it, as it is."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from PIL import Image

from bench.artwork import targets, triggers
from science import contact_sheet


def test_every_trigger_and_target_is_on_the_contact_sheet_at_three_resolutions() -> None:
    """A reader could not see what an entry of the board looks like."""
    rows = contact_sheet.rows()
    images_on_sheet = [image for _, images in rows for _, image in images]
    for side, name in itertools.product((16, 32, 256), triggers.NAMES):
        drawn = triggers.trigger(name, (3, side, side))
        assert any(
            torch.equal(drawn, image) for image in images_on_sheet if image.shape[1] == side
        ), name
        for target in targets.NAMES:
            drawn = targets.target(
                target, (3, side, side), triggers.trigger("stop_sign", (3, side, side))
            )
            assert any(
                torch.equal(drawn, image) for image in images_on_sheet if image.shape == drawn.shape
            ), target
    words = " ".join(
        word for title, images in rows for word in (title, *(label for label, _ in images))
    ).split()
    assert set(triggers.NAMES) | set(targets.NAMES) <= set(words), "each under its name"


def test_the_contact_sheet_in_the_docs_shows_the_drawings_as_they_are() -> None:
    """The docs would show triggers and targets that no run uses. Redraw with ``python -m
    science.contact_sheet``.
    """
    assert contact_sheet.OUTPUT.stat().st_size < 300_000
    committed = np.asarray(Image.open(contact_sheet.OUTPUT).convert("RGB"), dtype=float)
    fresh = np.asarray(contact_sheet.draw(), dtype=float)
    assert committed.shape == fresh.shape
    # Another version of Pillow may shape the labels' letters a little differently.
    assert np.abs(committed - fresh).mean() < 0.5
