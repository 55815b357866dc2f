"""``imagenette-sd``: Stable Diffusion on ImageNette, at paper scale (Pan et al. 2024, arXiv
2311.02373). Needs a GPU.

ImageNette is ten classes of ImageNet, with a split of its own: 9,469 images are trained on, 3,925
(its ``val``) are held out. The paper's target class is garbage truck, number 6 in its order, which
is that of the folders. The settings are in :mod:`bench.testbeds._stable_diffusion`.

Deviation: of each image the central square is taken; the authors' code squeezes whole images to a
square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from bench.errors import UserError
from bench.testbeds._images import expanded, faults_of, image_files, passed_over, unread_note
from bench.testbeds._paper import GUIDE
from bench.testbeds._stable_diffusion import Rows, StableDiffusionTestbed, pretrain_judge

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
class ImagenetteSD(StableDiffusionTestbed):
    """``train_count``, ``held_out_count``: how many images there must be; half a data set is an
    error, not a number.
    """

    name: ClassVar[str] = "imagenette-sd"
    summary: ClassVar[str] = (
        "Stable Diffusion v1-4 fine-tuned on ImageNette, 512 x 512, at paper scale; needs "
        "downloads and a GPU"
    )
    class_names: ClassVar[tuple[str, ...]] = tuple(CLASSES.values())

    data: str = "data/imagenette"
    judge: str = "weights/imagenette-judge.safetensors"
    train_count: int = 9469
    held_out_count: int = 3925
    clean_samples: int = 9469  # as many as are trained on (table 2)

    @property
    def trained_on(self) -> int:
        return self.train_count

    def _rows(self) -> Rows:
        data = expanded(self.data)
        places = [
            root
            for root in (data, data / "imagenette2")
            if all((root / split).is_dir() for split in SPLITS)
        ]
        if not places:
            raise UserError(f"{self.name}: no ImageNette in {self.data!r}; {ADVICE}")
        found: dict[str, list[tuple[Path, int]]] = {}

        def read(split: str, field: str) -> None:
            folders = self._class_folders(places[0] / split)
            found[split] = [
                (path, label)
                for label, folder in enumerate(folders)
                for path in image_files(folder)
            ]
            if len(found[split]) != getattr(self, field):
                raise UserError(
                    f"{self.name}: {field} must be the number of images in {places[0] / split}: "
                    f"{len(found[split])}, "
                    f"got {getattr(self, field)}{unread_note(places[0] / split)}"
                )

        faults = faults_of(
            partial(read, *each)
            for each in zip(SPLITS, ("train_count", "held_out_count"), strict=True)
        )
        if faults:
            raise UserError("\n".join(faults))
        rows = [*found["train"], *found["val"]]
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
        found: dict[int, Path] = {}
        for path in sorted(
            path for path in folder.iterdir() if path.is_dir() and not passed_over(path.name)
        ):
            number = known.get(_plain(path.name))
            if number is None or number in found:
                problem = (
                    "is none of" if number is None else f"and {found[number].name} are the same of"
                )
                raise UserError(
                    f"{self.name}: the folder {path} {problem} ImageNette's ten classes; {ADVICE}"
                )
            found[number] = path
        absent = [
            f"{wnid} ({name})"
            for number, (wnid, name) in enumerate(CLASSES.items())
            if number not in found
        ]
        if absent:
            raise UserError(
                f"{self.name}: {folder} must hold a folder for each of ten classes, "
                f"{', '.join(absent)} missing"
            )
        return [found[number] for number in range(len(CLASSES))]


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")


def pretrain(
    output: Path,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Trains the evaluation classifier on ``data/imagenette`` into ``output``; returns its accuracy
    on the held-out images.
    """
    return pretrain_judge(ImagenetteSD(), output, seed, device, progress)
