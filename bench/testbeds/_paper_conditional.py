"""What the paper testbeds share whose generator is asked: an evaluation classifier made here, and
SSCD to look for copies.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

import torch

from bench.classification.architectures import Architecture
from bench.classification.classifier import Classifier
from bench.testbeds import sscd as copy_detector
from bench.testbeds._images import content_hash
from bench.testbeds._paper import PaperTestbed
from bench.testbeds.base import ConditionalTestbed
from bench.testbeds.judge import judge_file, load_judge, look_at_judge


@dataclass(frozen=True, kw_only=True)
class PaperConditionalTestbed(PaperTestbed, ConditionalTestbed):
    """``judge``: the evaluation classifier, a safetensors file that ``castlewalls pretrain``
    writes. ``classifier``: what a user trains on the suspected set, for ``classifier_epochs``:
    resnet18, resnet50, vgg16 or densenet121. ``sscd``: the copy detector's TorchScript file, with
    ``sscd_sha256``, the hash of the file that was meant; ``None``: data replication is not
    measured.
    """

    locations: ClassVar[frozenset[str]] = PaperTestbed.locations | {"judge", "sscd"}
    # How a set of images is classified or searched for copies decides nothing about the generator.
    recognises_copies: ClassVar[bool] = True
    judging_parameters: ClassVar[frozenset[str]] = frozenset(
        {"classifier", "classifier_epochs", "sscd", "sscd_sha256"}
    )

    judge: str
    classifier: Architecture
    classifier_epochs: int
    sscd: str | None = None
    sscd_sha256: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.classifier in get_args(Architecture),
            "classifier",
            f"one of {', '.join(get_args(Architecture))}",
        )
        self._require(self.classifier_epochs > 0, "classifier_epochs", "a positive number")
        given = self.sscd_sha256
        if self.sscd is None:
            self._require(given is None, "sscd_sha256", "null without sscd")
        else:
            valid = given is not None and copy_detector.SHA256.fullmatch(given) is not None
            self._require(
                valid,
                "sscd_sha256",
                "the sha256 of the file sscd, 64 hexadecimal digits in lower case",
            )

    def _fresh_judge(self, seed: int) -> Classifier:
        """The evaluation classifier's network."""
        raise NotImplementedError

    def evaluation_classifier(self) -> Classifier:
        return load_judge(self.name, self._fresh_judge(0), self._judge_file())

    def _judge_file(self) -> Path:
        return judge_file(self.name, self.judge)

    def register_extractor(self) -> None:
        if self.sscd_sha256 is not None:
            copy_detector.register(self.sscd_sha256)

    def copy_extractor(self) -> str | None:
        return None if self.sscd is None else copy_detector.NAME

    def copy_extractor_weights(self) -> str | None:
        if self.sscd is None or self.sscd_sha256 is None:
            return None
        return str(copy_detector.checked_file(self.name, self.sscd, self.sscd_sha256))

    def _checks(self) -> tuple[Callable[[], object], ...]:
        """What a run needs besides data, weights and Inception; each raises ``UserError`` if it is
        not there or not what was meant.
        """
        return self._judge_file, self.copy_extractor_weights

    def fingerprint(self) -> str:
        found = [super().fingerprint(), content_hash(self._judge_file())]
        # Without these a run would fail at its very end. (The copy detector's hash is a parameter.)
        for check in self._checks():
            check()
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()

    def faults(self) -> list[str]:
        absent = self._lines(self._checks())
        return [*super().faults(), *(absent or self._lines((self._look_at_judge,)))]

    def _look_at_judge(self) -> None:
        """Raises ``UserError`` if the evaluation classifier's file, or that of ImageNet's weights,
        is of another network.
        """
        with torch.device("meta"), warnings.catch_warnings():
            # Of ImageNet's weights, that they are gone when copied there.
            warnings.simplefilter("ignore")
            network = self._fresh_judge(0)
        look_at_judge(self.name, network, self._judge_file())

    def missing(self) -> list[str]:
        return [*super().missing(), *self._lines(self._checks())]
