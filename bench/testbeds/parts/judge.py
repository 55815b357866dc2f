"""The evaluation classifier of a paper testbed: the harness's own, trained on clean data, kept as a
safetensors file.

It says which class a generated image shows. Nobody publishes it, so ``castlewalls pretrain`` makes
it from the data set; for other parameters than the declared ones, :func:`train_judge` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.classification.classifier import Classifier, predict
from bench.classification.training import ClassifierSettings, train_classifier
from bench.diffusion.checkpoint import header_of, mismatch
from bench.errors import UserError
from bench.testbeds.data.images import content_hash, expanded, faults_of
from bench.testbeds.parts.part import GUIDE, Classifiers, Composition, Data, Judge


@dataclass(frozen=True, kw_only=True)
class TrainedJudge(Judge):
    """``judge``: the evaluation classifier, a safetensors file that ``castlewalls pretrain``
    writes.
    """

    locations: ClassVar[frozenset[str]] = frozenset({"judge"})

    judge: str

    def untrained(self, seed: int, classifiers: Classifiers | None, data: Data) -> Classifier:
        """The network with random weights: the one that users train, unless a testbed has one of
        its own.
        """
        assert classifiers is not None  # or the testbed would have one of its own
        return classifiers.fresh(seed, len(data.class_names))

    def file(self) -> Path:
        """Where the evaluation classifier is. Raises ``UserError`` saying how to make it."""
        path = expanded(self.judge)
        if not path.is_file():
            raise UserError(
                f"{self.name}: no evaluation classifier at {self.judge!r}; make it with "
                f"`castlewalls pretrain {self.name} --output {Path(self.judge).parent}` ({GUIDE})"
            )
        return path

    def network(self, classifiers: Classifiers | None, data: Data) -> Classifier:
        """Raises ``UserError`` if the file holds another network's weights."""
        network, path = self.untrained(0, classifiers, data), self.file()
        try:
            network.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise self._not_ours(path, str(error).strip().splitlines()[0]) from error
        return network.eval()

    def _not_ours(self, path: Path, reason: str) -> UserError:
        return UserError(
            f"{self.name}: judge must be a file that `castlewalls pretrain` wrote, got {path}: "
            f"{reason}"
        )

    def fingerprint(self) -> str:
        return content_hash(self.file())

    def missing(self) -> list[str]:
        return faults_of([self.file])

    def faults(self, testbed: Composition) -> list[str]:
        absent = self.missing()
        # Of what the network is made from, its own part speaks.
        if absent or (testbed.classifiers is not None and testbed.classifiers.missing()):
            return absent
        return faults_of([lambda: self._look(testbed)])

    def _look(self, testbed: Composition) -> None:
        """Raises ``UserError`` unless the file holds weights of the network, by its header: nothing
        is loaded. Or if ImageNet's weights are another network's.
        """
        with torch.device("meta"), warnings.catch_warnings():
            # Of ImageNet's weights, that they are gone when copied there.
            warnings.simplefilter("ignore")
            network = self.untrained(0, testbed.classifiers, testbed.data)
        path = self.file()
        wrong: str | None
        try:
            wrong = mismatch(network.state_dict(), header_of(path), "classifier as declared")
        except UserError as error:
            wrong = str(error)
        if wrong:
            raise self._not_ours(path, wrong)


def train_judge(
    data: Data,
    network: Classifier,
    settings: ClassifierSettings,
    file: Path,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, float]:
    """Trains ``network`` on the clean training set, on the GPU if there is one, and writes it to
    ``file``. Returns its accuracy on the held-out images.
    """
    labels, held_out = data.train_labels(), data.held_out_labels()
    assert labels is not None and held_out is not None  # or there would be nothing to judge
    network = network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    train_classifier(
        network,
        data.train_images(),
        labels,
        settings,
        seed,
        purpose="judge",
        progress=progress,
    )
    right = predict(network, data.held_out_images()) == held_out
    accuracy = float(right.float().mean())
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in network.cpu().state_dict().items()}, file
    )
    return {"judge_held_out_accuracy": accuracy}
