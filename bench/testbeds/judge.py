"""The evaluation classifier of a paper testbed: the harness's own, trained on clean data, kept as a
safetensors file.

It says which class a generated image shows. Nobody publishes it, so ``castlewalls pretrain`` makes
it from the data set; for other parameters than the declared ones, :func:`train_judge` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from bench.classification.classifier import Classifier, predict
from bench.classification.training import ClassifierSettings, train_classifier
from bench.diffusion.checkpoint import header_of, mismatch
from bench.errors import UserError
from bench.testbeds._images import expanded
from bench.testbeds._paper import GUIDE
from bench.testbeds.base import ConditionalTestbed


def judge_file(testbed: str, judge: str) -> Path:
    """Where the evaluation classifier is. Raises ``UserError`` saying how to make it."""
    path = expanded(judge)
    if not path.is_file():
        raise UserError(
            f"{testbed}: no evaluation classifier at {judge!r}; make it with `castlewalls "
            f"pretrain {testbed} --output "
            f"{Path(judge).parent}` ({GUIDE})"
        )
    return path


def load_judge(testbed: str, network: Classifier, path: Path) -> Classifier:
    """``network`` with the weights at ``path``, in evaluation mode. Raises ``UserError`` if they
    are another network's.
    """
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{testbed}: judge must be a file that `castlewalls pretrain` wrote, got {path}: "
            f"{reason}"
        ) from error
    return network.eval()


def look_at_judge(testbed: str, network: Classifier, path: Path) -> None:
    """Raises ``UserError`` unless the file at ``path`` holds weights of ``network``, by its header:
    nothing is loaded.
    """
    wrong: str | None
    try:
        wrong = mismatch(network.state_dict(), header_of(path), "classifier as declared")
    except UserError as error:
        wrong = str(error)
    if wrong:
        raise UserError(
            f"{testbed}: judge must be a file that `castlewalls pretrain` wrote, got {path}: "
            f"{wrong}"
        )


def train_judge(
    testbed: ConditionalTestbed,
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
    network = network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    train_classifier(
        network,
        testbed.train_images(),
        testbed.train_labels(),
        settings,
        seed,
        purpose="judge",
        progress=progress,
    )
    accuracy = float(
        (predict(network, testbed.held_out_images()) == testbed.held_out_labels()).float().mean()
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in network.cpu().state_dict().items()}, file
    )
    return {"judge_held_out_accuracy": accuracy}
