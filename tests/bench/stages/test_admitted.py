"""What stages leave is admitted as it is, byte for byte; what no such stage leaves is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from bench.artefacts import doubts
from bench.engine.admission import take_over
from bench.engine.context import StageContext
from bench.errors import ContractError
from bench.record import Flag
from bench.stages.table import STAGES

#: What of a generator's folder says who made it.
ABOUT = ("README.md", "castlewalls.json")


@pytest.fixture(scope="module")
def walks(walk: Any, small_suites: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return [
        walk(suite, tmp_path_factory.mktemp("walk"), classifier_steps=2)
        for suite in small_suites.values()
    ]


def made_by(walks: list[Any], name: str) -> list[tuple[Any, str]]:
    """Each stage of that name: the walk, and the key."""
    return [
        (one, key) for one in walks for key, stage in one.plan.stages.items() if stage.name == name
    ]


def admit(one: Any, key: str, out: Path) -> None:
    stage = one.plan.stages[key]
    inputs = {role: one.folders[above] for role, above in stage.inputs.items()}
    rule = STAGES[stage.name].admit
    assert rule is not None
    rule(stage.params, inputs, out, StageContext(key=key))


@pytest.mark.parametrize(
    "name",
    "aim poisoned_rows suspected train sample invert classifier trigger_classifier judged_noise "
    "call score classify".split(),
)
def test_what_a_stage_leaves_is_admitted(walks: list[Any], name: str, tmp_path: Path) -> None:
    stages = made_by(walks, name)
    assert stages
    for number, (one, key) in enumerate(stages):
        out, folder = tmp_path / str(number), one.folders[key]
        out.mkdir()
        take_over(folder, out)
        admit(one, key, out)
        names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert names == {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        for file in names:
            if Path(file).name not in ABOUT:
                assert (folder / file).read_bytes() == (out / file).read_bytes(), file


def _npz(path: Path, **arrays: Any) -> None:
    with np.load(path) as there:
        merged: dict[str, Any] = dict(there) | arrays
    np.savez(path, **merged)


def _images(out: Path) -> None:
    with np.load(out / "images.npz") as arrays:
        images = arrays["images"][:-1]
    np.savez(out / "images.npz", images=images)


def _weights(out: Path) -> None:
    path = next(out.rglob("diffusion_pytorch_model.safetensors"))
    weights = load_file(path)
    first = next(iter(weights))
    save_file(weights | {first: weights[first] * float("nan")}, path)


def _settings(out: Path) -> None:
    path = next(out.rglob("scheduler_config.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_end": 0.5}))


def _doubt(out: Path) -> None:
    text = "a\x1b[2Jb"
    flag = {"code": "not-repeatable", "metric": "", "text": text}
    (out / doubts.FILE).write_text(json.dumps([flag]))


def _of_others(out: Path) -> None:
    flag = {"code": "looks-rows-up", "metric": "", "text": "so it says"}
    (out / doubts.FILE).write_text(json.dumps([flag]))


def _scores(out: Path) -> None:
    with np.load(out / "scores.npz") as arrays:
        changed = {name: arrays[name] * np.nan for name in arrays.files}
    np.savez(out / "scores.npz", **changed)


def _reference(out: Path) -> None:
    with np.load(out / "judged.npz") as arrays:
        _npz(out / "judged.npz", reference=arrays["reference"] + 1)


#: stage, what is wrong -> how it is made so, and the words of the error.
WRONG: dict[tuple[str, str], Any] = {
    ("sample", "one image less"): (_images, "images torch.uint8"),
    ("sample", "another file"): (
        lambda out: (out / "more.json").write_text("{}"),
        r"\['more.json'\], which no such stage leaves",
    ),
    ("sample", "a doubt that clears the screen"): (_doubt, "a doubt that is no line of text"),
    **{
        (name, "a doubt of its own"): (_of_others, r"\['doubts.json'\], which no such stage leaves")
        for name in "aim suspected call judged_noise trigger_classifier".split()
    },
    ("train", "NaN in a weight"): (_weights, "that is not finite"),
    ("train", "another schedule"): (_settings, "other settings, in scheduler/scheduler_config"),
    ("score", "NaN"): (_scores, "scores that are not all finite"),
    ("judged_noise", "another reference"): (
        _reference,
        "reference that the harness would not have chosen",
    ),
    ("classify", "a class there is not"): (
        lambda out: _npz(out / "scores.npz", pool=np.full(12, 10)),
        "the plugin's process left",
    ),
}


@pytest.mark.parametrize(("name", "what"), WRONG)
def test_what_no_such_stage_leaves_is_refused(
    walks: list[Any], name: str, what: str, tmp_path: Path
) -> None:
    change, words = WRONG[name, what]
    one, key = made_by(walks, name)[0]
    out = tmp_path / "out"
    shutil.copytree(one.folders[key], out)
    change(out)
    with pytest.raises(ContractError, match=words):
        admit(one, key, out)


@pytest.mark.parametrize("name", ["classifier", "classify"])
def test_a_third_partys_remark_reaches_its_cells_and_no_other_doubt_does(
    walks: list[Any], name: str, tmp_path: Path
) -> None:
    """A remark is the author's own; a submission that could doubt would doubt its rivals."""
    one, key = made_by(walks, name)[0]
    out = tmp_path / "out"
    shutil.copytree(one.folders[key], out)
    remark = {"code": "remark", "metric": "", "text": "one model for all seeds"}
    other = {"code": "looks-rows-up", "metric": "", "text": "so it says"}
    (out / doubts.FILE).write_text(json.dumps([remark, other]))
    admit(one, key, out)
    assert Flag("remark", "", "one model for all seeds") in doubts.load(out)
    assert "looks-rows-up" not in {flag.code for flag in doubts.load(out)}
    (out / doubts.FILE).write_text(json.dumps([remark | {"text": "x" * 201}]))
    with pytest.raises(ContractError, match="a remark must be one line"):
        admit(one, key, out)
