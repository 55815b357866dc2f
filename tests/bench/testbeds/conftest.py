"""Shared by the tests of the testbeds over Stable Diffusion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from bench import registry
from bench.classification.training import ClassifierSettings
from bench.cli import cli
from bench.engine.context import StageContext
from bench.planner import make_plan
from bench.record import Record
from bench.stages.table import STAGES
from bench.suite import parse_suite
from bench.testbeds.data.imagenette import CLASSES
from bench.testbeds.imagenette_sd import IMAGENETTE_SD
from bench.testbeds.parts import digits_cnn, digits_extractor, sscd
from bench.testbeds.parts.inception import Inception
from bench.testbeds.testbed import Testbed


@pytest.fixture(scope="session")
def save_photograph() -> Callable[..., None]:
    """Writes a smooth JPEG (or what the name says) of a colour, with noise by ``seed``."""

    def save(path: Path, width: int = 24, height: int = 16, seed: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)

    return save


@pytest.fixture()
def small(stable_diffusion: Path, tmp_path: Path) -> dict[str, Any]:
    """Parameters for a testbed of 16 x 16 images on a CPU; the evaluation classifier is not
    there.
    """
    return {
        "weights": str(stable_diffusion),
        "resolution": 16,
        "classifier": "resnet18",
        "imagenet_weights": None,
        "judge": str(tmp_path / "judge.safetensors"),
        "precision": "float32",
    }


@pytest.fixture()
def imagenette_folder(tmp_path: Path, save_photograph: Callable[..., None]) -> Path:
    """The unpacked archive, with the upper-case suffixes it has there: three training images and
    one other of each class.
    """
    for number, wnid in enumerate(CLASSES):
        for split, count in (("train", 3), ("val", 1)):
            for row in range(count):
                path = tmp_path / "imagenette" / split / wnid / f"{wnid}_{row}.JPEG"
                save_photograph(path, 30 - row, 20, seed=100 * number + row)
    return tmp_path / "imagenette"


@pytest.fixture()
def imagenette(imagenette_folder: Path, small: dict[str, Any]) -> Callable[..., Testbed]:
    """Makes a tiny testbed over it, with changes."""
    given = small | {"data": str(imagenette_folder), "train_count": 30, "held_out_count": 10}
    return lambda **changes: IMAGENETTE_SD.changed(**(given | changes))


@pytest.fixture()
def judged_imagenette(imagenette: Callable[..., Testbed]) -> Callable[..., Testbed]:
    """As ``imagenette``, with an evaluation classifier on disk."""
    network = imagenette().fresh_classifier(7)
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()},
        imagenette().judge.judge,
    )
    return imagenette


@pytest.fixture()
def copy_detector(tmp_path: Path) -> dict[str, str]:
    """A network of pooled colours as TorchScript, and its hash."""
    path = tmp_path / sscd.FILE
    torch.jit.script(nn.Sequential(nn.AvgPool2d(32), nn.Flatten())).save(str(path))
    return {"sscd": str(path), "sscd_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture()
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs a suite over a testbed of digits' size stage by stage in this process, a few training
    steps each: attack -> record.
    """

    def run(testbed: Any, target_class: int) -> dict[str, Any]:
        plugins = registry.use()
        settings = replace(
            testbed.training_settings("finetune"),
            steps=2,
            precision="float32",
            accumulation_steps=1,
        )
        monkeypatch.setattr(Testbed, "training_settings", lambda self, scheme: settings)
        monkeypatch.setattr(
            Testbed, "classifier_settings", lambda self: ClassifierSettings(steps=2, batch_size=4)
        )
        monkeypatch.setattr(Inception, "extractor", digits_cnn.NAME)
        monkeypatch.setattr(Inception, "register", lambda self: digits_extractor.register())
        monkeypatch.setattr(Inception, "weights", lambda self: None)
        changes = {
            "clean_samples": 6,
            "class_samples": 4,
            "test_images": 6,
            "num_inference_steps": 2,
            "network_batch": 4,
        }
        attacks = [
            {"name": "none"},
            {"name": "badnets", "params": {"target_class": target_class, "poison_rate": 0.25}},
        ]
        suite = {
            "name": "tiny",
            "testbeds": [{"name": testbed.name, "params": testbed.params() | changes}],
            "attacks": attacks,
            "defenses": ["none"],
            "seeds": [0],
        }
        plan = make_plan(parse_suite(suite, plugins, "tiny.yaml"), plugins, STAGES)
        folders: dict[str, Path] = {}
        for key, stage in plan.stages.items():
            folders[key] = tmp_path / "stages" / key
            folders[key].mkdir(parents=True)
            context = StageContext(key=key, provenance={"package": "test"})
            inputs = {role: folders[made] for role, made in stage.inputs.items()}
            STAGES[stage.name].run(stage.params, inputs, folders[key], context)
        return {
            cell.attack.name: Record.from_json((folders[cell.stage] / "record.json").read_text())
            for cell in plan.cells
            if cell.stage
        }

    return run


@pytest.fixture()
def refused_with_exit_code_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a suite of a testbed through the command line, which must refuse it in one line a fault
    on standard error; returns what it says.
    """

    def run(testbed: str, params: dict[str, Any]) -> str:
        monkeypatch.chdir(tmp_path)
        suite = {
            "name": "bad",
            "testbeds": [{"name": testbed, "params": params}],
            "attacks": ["badnets"],
            "defenses": ["none"],
        }
        (tmp_path / "bad.yaml").write_text(json.dumps(suite | {"seeds": [0]}))
        result = CliRunner().invoke(cli, ["run", "bad.yaml", "--no-report"])
        assert result.exit_code == 2, result.output
        assert all(
            line.startswith(("castlewalls: ", f"{testbed}: "))
            for line in result.stderr.splitlines()
        ), result.stderr
        return str(result.stderr)

    return run
