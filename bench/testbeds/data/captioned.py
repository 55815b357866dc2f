"""A folder of images with free captions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval
from torch import Tensor

from bench.errors import UserError
from bench.testbeds.data.captions import Captioned as Row
from bench.testbeds.data.captions import read_captions
from bench.testbeds.data.images import capped, expanded, unread_note
from bench.testbeds.data.pictures import Pictures, Rows, split_rows
from bench.testbeds.data.subjects import Concept, parse_concept, rewrite, split_at
from bench.testbeds.parts.part import GUIDE

OTHER = "other"
ADVICE = (
    f"put images there with metadata.jsonl, metadata.csv or a .txt beside each, or set data "
    f"({GUIDE})"
)


@dataclass(frozen=True, kw_only=True)
class Captioned(Pictures):
    """``concepts``: the classes, each a name with its other words: "dog/puppy/canine"; a last
    class, "other", is for captions that speak of none. ``image_count``: how many images there must
    be; ``held_out_share`` of each class, the last by path, is not trained on.
    """

    data: str = "data/captions"
    concepts: tuple[str, ...] = ("dog/puppy/canine",)
    image_count: Annotated[int, Ge(2)] = 500
    held_out_share: Annotated[float, Interval(gt=0, lt=1)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        words = [word.lower() for concept in self._concepts for word in concept.words]
        distinct = len(set(words)) == len(words) > 0 and OTHER not in words
        self.require(
            distinct, "concepts", f"one or more, with no word twice and none of them {OTHER!r}"
        )

    @property
    def _concepts(self) -> tuple[Concept, ...]:
        return tuple(parse_concept(text) for text in self.concepts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The concepts' names, and "other"."""
        return (*(concept.name for concept in self._concepts), OTHER)

    def prompts(self) -> tuple[str, ...]:
        return (*(f"A photo of a {concept.name}" for concept in self._concepts), "A photo")

    def _captions_and_labels(self) -> tuple[list[Row], list[int]]:
        """Every image with its caption and its label, by path."""
        root = expanded(self.data)
        captions = read_captions(root)
        if not captions:
            raise UserError(f"{self.name}: no images in {self.data!r}; {ADVICE}")
        if len(captions) != self.image_count:
            raise UserError(
                f"{self.name}: image_count must be the number of images in {self.data}: "
                f"{len(captions)}, got {self.image_count}"
                f"{unread_note(root)}"
            )
        faults = []
        for row in captions:
            if row.subject is not None:
                try:
                    split_at(row.text, row.subject)
                except ValueError as error:
                    faults.append(f"{row.path}: {error}")
        labels = [
            next(
                (
                    label
                    for label, concept in enumerate(self._concepts)
                    if concept.occurs_in(row.text)
                ),
                len(self._concepts),
            )
            for row in captions
        ]
        faults += [
            f"{self.name}: concepts must occur in the captions, {'/'.join(concept.words)} is the "
            f"label of none of the "
            f"{len(captions)} in {self.data}"
            for label, concept in enumerate(self._concepts)
            if label not in labels
        ]
        if faults:
            raise UserError("\n".join(capped(faults, "faults in the captions")))
        return captions, labels

    def _rows(self) -> Rows:
        captions, labels = self._captions_and_labels()
        return split_rows([row.path for row in captions], labels, self.held_out_share)

    def captions(self, labels: Tensor) -> tuple[str, ...]:
        """The rows' own captions; where ``labels`` (n,) differ from the rows' own, rewritten to the
        new one's concept. A row that is made "other" is "A photo".
        """
        by_path, rows = {row.path: row for row in self._captions_and_labels()[0]}, self._rows()
        texts = []
        for path, own, label in zip(
            rows.files, rows.labels[: rows.train_count], labels.tolist(), strict=False
        ):
            row = by_path[path]
            if label == own:
                texts.append(row.text)
            elif label == len(self._concepts):
                texts.append(self.prompts()[label])
            else:
                try:
                    texts.append(rewrite(row.text, self._concepts[label].name, row.subject))
                except ValueError as error:
                    raise UserError(f"{path}: {error}") from error
        return tuple(texts)

    def fingerprint(self) -> str:
        captions = [[row.text, row.subject] for row in self._captions_and_labels()[0]]
        return hashlib.sha256(json.dumps([super().fingerprint(), captions]).encode()).hexdigest()
