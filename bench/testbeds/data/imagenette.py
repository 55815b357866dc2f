"""ImageNette from disk: ten classes of ImageNet, with a split of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.errors import UserError
from bench.testbeds.data.images import expanded, faults_of, image_files, passed_over, unread_note
from bench.testbeds.data.pictures import Pictures, Rows
from bench.testbeds.parts.part import GUIDE

#: ImageNet's names of the classes' folders, and the paper's of the classes, in its order (appendix
#: A.1).
CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
SPLITS = ("train", "val")
ADVICE = (
    f"unpack imagenette2.tgz there, so that it holds train/ and val/ with a folder a class, "
    f"or set data ({GUIDE})"
)


@dataclass(frozen=True, kw_only=True)
class Imagenette(Pictures):
    """``train_count``, ``held_out_count``: how many images there must be; half a data set is an
    error, not a number.
    """

    data: str = "data/imagenette"
    train_count: int = 9469
    held_out_count: int = 3925

    @property
    def rows(self) -> int:
        return self.train_count

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(CLASSES.values())

    def _rows(self) -> Rows:
        data = expanded(self.data)
        roots = [
            root
            for root in (data, data / "imagenette2")
            if all((root / split).is_dir() for split in SPLITS)
        ]
        if not roots:
            raise UserError(f"{self.name}: no ImageNette in {self.data!r}; {ADVICE}")
        splits: dict[str, list[tuple[Path, int]]] = {}

        def read(split: str, field: str) -> None:
            folders = self._class_folders(roots[0] / split)
            splits[split] = [
                (path, label)
                for label, folder in enumerate(folders)
                for path in image_files(folder)
            ]
            if len(splits[split]) != getattr(self, field):
                raise UserError(
                    f"{self.name}: {field} must be the number of images in {roots[0] / split}: "
                    f"{len(splits[split])}, "
                    f"got {getattr(self, field)}{unread_note(roots[0] / split)}"
                )

        faults = faults_of(
            partial(read, *each)
            for each in zip(SPLITS, ("train_count", "held_out_count"), strict=True)
        )
        if faults:
            raise UserError("\n".join(faults))
        rows = [*splits["train"], *splits["val"]]
        return Rows(
            tuple(path for path, _ in rows), tuple(label for _, label in rows), self.train_count
        )

    def _class_folders(self, folder: Path) -> list[Path]:
        """The folder of each class, in the order of the classes, by ImageNet's name or by the
        class's own.
        """
        known = {
            _plain(name): number for number, pair in enumerate(CLASSES.items()) for name in pair
        }
        by_number: dict[int, Path] = {}
        for path in sorted(
            path for path in folder.iterdir() if path.is_dir() and not passed_over(path.name)
        ):
            number = known.get(_plain(path.name))
            if number is None or number in by_number:
                problem = (
                    "is none of"
                    if number is None
                    else f"and {by_number[number].name} are the same of"
                )
                raise UserError(
                    f"{self.name}: the folder {path} {problem} ImageNette's ten classes; {ADVICE}"
                )
            by_number[number] = path
        absent = [
            f"{wnid} ({name})"
            for number, (wnid, name) in enumerate(CLASSES.items())
            if number not in by_number
        ]
        if absent:
            raise UserError(
                f"{self.name}: {folder} must hold a folder for each of ten classes, "
                f"{', '.join(absent)} missing"
            )
        return [by_number[number] for number in range(len(CLASSES))]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")
