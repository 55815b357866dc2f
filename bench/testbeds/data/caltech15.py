"""Classes of Caltech-256, or any folder of class folders, from disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Interval

from bench.errors import UserError
from bench.names import unknown_name
from bench.testbeds.data.images import capped, expanded, image_files, passed_over, unread_note
from bench.testbeds.data.pictures import Pictures, Rows, split_rows
from bench.testbeds.parts.part import GUIDE

ADVICE = (
    f"put one folder a class there, or unpack Caltech-256 there and name the classes in the "
    f"parameter classes ({GUIDE})"
)


@dataclass(frozen=True, kw_only=True)
class Caltech15(Pictures):
    """``classes``: the names of those to use, in this order, which numbers them; ``None``: every
    folder, by name, and there must be ``class_count``. ``images_per_class``: so many are used of
    each, by name, and ``held_out_share`` of these are not trained on.

    A class is named as its folder, without Caltech-256's number and its "-101", with spaces for
    hyphens: ``012.binoculars``, ``251.airplanes-101`` and ``french-horn`` are binoculars, airplanes
    and french horn.
    """

    data: str = "data/caltech15"
    classes: tuple[str, ...] | None = None
    class_count: Annotated[int, Ge(2)] = 15
    images_per_class: Annotated[int, Ge(2)] = 200
    held_out_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        named = (
            self.classes is None
            or len({class_name(name) for name in self.classes})
            == len(self.classes)
            == self.class_count
        )
        self.require(named, "classes", f"class_count ({self.class_count}) different names, or null")

    def _folders(self) -> dict[str, Path]:
        """Each class's name and folder, in the order of the classes."""
        root = expanded(self.data)
        present = [path for path in (root, root / "256_ObjectCategories") if path.is_dir()]
        inner = present[-1] if present else root
        folders = (
            sorted(path for path in inner.iterdir() if path.is_dir() and not passed_over(path.name))
            if present
            else []
        )
        if not folders:
            raise UserError(f"{self.name}: no classes in {self.data!r}; {ADVICE}")
        by_name: dict[str, Path] = {}
        for path in folders:
            if (name := class_name(path.name)) in by_name:
                raise UserError(
                    f"{self.name}: the folders {by_name[name].name} and {path.name} in {inner} are "
                    f"both {name!r}"
                )
            by_name[name] = path
        if self.classes is None:
            if len(by_name) != self.class_count:
                raise UserError(
                    f"{self.name}: {inner} must hold {self.class_count} class folders, got "
                    f"{len(by_name)}; {ADVICE}"
                )
            return by_name
        chosen = [class_name(name) for name in self.classes]
        for name in chosen:
            if name not in by_name:
                raise unknown_name(f"class folder in {inner}:", name, by_name, self.name)
        return {name: by_name[name] for name in chosen}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in their order. Raises ``UserError`` if there is no such data."""
        return (
            tuple(self._folders())
            if self.classes is None
            else tuple(class_name(name) for name in self.classes)
        )

    @property
    def rows(self) -> int:
        count = self.images_per_class
        return (
            self.class_count
            * split_rows([Path()] * count, [0] * count, self.held_out_share).train_count
        )

    def _rows(self) -> Rows:
        files: list[Path] = []
        labels: list[int] = []
        short: list[str] = []
        for label, (name, folder) in enumerate(self._folders().items()):
            images = image_files(folder)
            if len(images) < self.images_per_class:
                short.append(
                    f"{self.name}: images_per_class must be at most the number of images of each "
                    f"class; {name} has "
                    f"{len(images)}, got {self.images_per_class}{unread_note(folder)}"
                )
            files += images[: self.images_per_class]
            labels += [label] * self.images_per_class
        if short:
            raise UserError("\n".join(capped(short, "classes")))
        return split_rows(files, labels, self.held_out_share)


def class_name(folder: str) -> str:
    """What the class in ``folder`` is called in prompts."""
    name = re.sub(r"-101$", "", re.sub(r"^\d+[._]", "", folder))
    return " ".join(re.split(r"[-_\s]+", name)).strip()
