"""A stranger's installed package adds an attack, defenses, a detector and a measurement, and
touches nothing of ours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.measurements import TRUSTED
from bench.record import Record, read_runs

HERE = Path(__file__).parent
#: The first attack's row and one cell of the second: each stage with a guest's plugin has a worker
#: of its own, which takes seconds to start.
CELLS = ("--limit", "9")
SUITE = {
    "name": "guest",
    "testbeds": [
        {
            "name": "digits-ddpm",
            "params": {
                "num_inference_steps": 2,
                "clean_samples": 8,
                "triggered_samples": 4,
                "precision": "float32",
            },
        }
    ],
    "attacks": [
        {"name": "guest_letter", "params": {"training_steps": 1}},
        "guest_nudge",
        {"name": "none", "params": {"training_steps": 1}},
    ],
    "defenses": [
        "guest_dampen",
        "guest_soften",
        ["guest_soften", "clip_x0"],
        "guest_undo",
        "guest_recall",
    ],
    "detectors": ["guest_loudness", "guest_offset"],
    "seeds": [0],
}
#: The columns that draw no sample of their own.
NOTHING_DRAWN = ("guest_recall", "guest_loudness", "guest_offset")
TEXT = {
    "name": "words",
    "testbeds": [
        {
            "name": "digits-sd",
            "params": {
                "num_inference_steps": 2,
                "clean_samples": 8,
                "triggered_samples": 4,
                "class_samples": 4,
                "generated_samples": 20,
                "judged_images": 20,
                "precision": "float32",
            },
        }
    ],
    "attacks": ["guest_wording", {"name": "none", "params": {"training_steps": 1}}],
    "detectors": ["guest_length", "guest_bright_rows"],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The package installed beside ours, and a suite of it run by the command."""
    folder = tmp_path_factory.mktemp("guest")
    shutil.copytree(HERE / "guest", folder / "source")
    where = folder / "installed"
    options = [
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            *options,
            "--target",
            str(where),
            str(folder / "source"),
        ],
        check=True,
        timeout=300,
    )
    (folder / "guest.yaml").write_text(yaml.safe_dump(SUITE))
    arguments = ("run", "guest.yaml", *CELLS, "--store", "store", "--jobs", "2")
    ended = _castlewalls(folder, *arguments)
    return folder, ended


@pytest.fixture(scope="module")
def planned(run: tuple[Path, subprocess.CompletedProcess[str]]) -> list[dict[str, Any]]:
    """The stages of that suite, before a test changes the package."""
    return _plan(run[0])


@pytest.fixture(scope="module")
def records(run: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[tuple[str, str], Record]:
    folder, ended = run
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (account,) = read_runs(folder / "store")
    assert account.counts["failed"] == account.counts["pending"] == 0, account
    return {(record.attack.name, record.defense.name): record for _, record in account.records}


def test_every_call_of_a_guests_attack_is_measured(records: dict[tuple[str, str], Record]) -> None:
    """The third one was drawn, paid for, and left out."""
    for defense in ("none", "guest_dampen", "guest_soften", "guest_soften + clip_x0"):
        metrics = records["guest_letter", defense].metrics
        for call in ("noise", "image", "letter"):
            assert {f"{name}[{call}]" for name in ("mse", "ssim", "asr", "robust_asr")} <= set(
                metrics
            )
    detected = records["guest_letter", "guest_loudness"].metrics
    assert {"auroc[noise]", "auroc[image]", "auroc[letter]", "auroc[clean]"} <= set(detected)
    assert "model_score" in records["guest_letter", "guest_offset"].metrics


def test_a_call_by_a_mask_keeps_what_is_known(
    run: tuple[Path, subprocess.CompletedProcess[str]],
    records: object,
    planned: list[dict[str, Any]],
) -> None:
    folder, _ = run
    drawn = next(
        stage
        for stage in planned
        if stage["stage"] == "sample" and stage["params"]["what"] == "letter"
    )
    stages = folder / "store" / "stages"
    with np.load(stages / drawn["key"][:2] / drawn["key"] / "images.npz") as arrays:
        images = arrays["images"]
    assert (images[:, :, :4] == 255).all() and not (images[:, :, 4:] == 255).all()


def test_a_guests_edit_and_what_starts_from_a_recall_are_columns_and_rows_like_ours(
    records: dict[tuple[str, str], Record], planned: list[dict[str, Any]]
) -> None:
    """An attack that edits weights, an inversion, and a defense that uses it."""
    assert "mse[noise]" in records["guest_nudge", "none"].metrics
    assert "inversion_mse_last" in records["guest_letter", "guest_recall"].metrics
    undone = records["guest_letter", "guest_undo"]
    assert undone.kind == "model" and "mse[clean]" in undone.metrics
    stages = {stage["key"]: stage for stage in planned}
    repaired = next(
        stage
        for stage in stages.values()
        if stage["stage"] == "repair" and stage["params"]["defense"]["name"] == "guest_undo"
    )
    used = stages[repaired["inputs"]["recovered"]]
    assert used["params"]["defense"] == {"name": "guest_recall", "params": {"count": 2}}


def test_a_guests_words_and_rows_are_judged(run: tuple[Path, object]) -> None:
    """On a testbed that is asked by text: an edit called by a word, detectors of prompts and of
    images.
    """
    folder = run[0]
    (folder / "words.yaml").write_text(yaml.safe_dump(TEXT))
    ended = _castlewalls(folder, "run", "words.yaml", "--limit", "3", "--store", "store")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    account = next(one for one in read_runs(folder / "store") if one.suite == "words")
    by_column = {record.defense.name: record for _, record in account.records}
    assert "asr_class[word]" in by_column["none"].metrics
    assert "auroc[word]" in by_column["guest_length"].metrics
    # Nothing of the training set is poisoned, so no row can be told from the others.
    judged = by_column["guest_bright_rows"]
    assert "auroc[training set]" not in judged.metrics


def test_a_guests_defenses_are_measured_like_ours(records: dict[tuple[str, str], Record]) -> None:
    plain = records["guest_letter", "none"]
    for defense, kind in (("guest_dampen", "sampler"), ("guest_soften", "model")):
        record = records["guest_letter", defense]
        assert record.kind == kind and record.metrics.keys() >= {"fid[digits-cnn]", "mse[letter]"}
        assert record.metrics["mse[clean]"].value != plain.metrics["mse[clean]"].value
        assert record.picture("call:letter", defense) and record.picture("call:letter")


def test_defenses_act_at_once(
    records: dict[tuple[str, str], Record], planned: list[dict[str, Any]]
) -> None:
    """A sampler defense steps in at what the guest's repaired model draws; the cell is a column
    like any other.
    """
    both = records["guest_letter", "guest_soften + clip_x0"]
    assert both.kind == "model" and [part["name"] for part in both.defense.params["defenses"]] == [
        "guest_soften",
        "clip_x0",
    ]
    drawn = ("none", "guest_dampen", "guest_soften", "guest_soften + clip_x0")
    assert len(
        {records["guest_letter", defense].metrics["mse[clean]"].value for defense in drawn}
    ) == len(drawn)
    repaired = {stage["key"] for stage in planned if stage["stage"] == "repair"}
    guards = [
        [spec["name"] for spec in stage["params"]["defenses"]]
        for stage in planned
        if stage["stage"] == "sample" and stage["inputs"].get("generator") in repaired
    ]
    assert [] in guards and ["clip_x0"] in guards


def test_a_guests_measurement_is_made_of_every_cell_it_applies_to(
    records: dict[tuple[str, str], Record],
) -> None:
    for (attack, defense), record in records.items():
        drawn = defense not in NOTHING_DRAWN and attack != "real_images"
        assert ("guest_brightness" in record.metrics) is drawn, (attack, defense)
        assert ("guest_brightness" in record.absent) is not drawn, (attack, defense)
    assert (
        records["guest_letter", "guest_recall"].absent["guest_brightness"]
        == "an inversion changes no sample"
    )


def test_the_board_of_real_records_shows_all_of_it(
    run: tuple[Path, subprocess.CompletedProcess[str]], records: object
) -> None:
    """Records made by hand drift away from what the engine writes."""
    folder, ended = run
    board = (folder / ended.stdout.strip().splitlines()[-1]).read_text()
    for name in (
        "guest_brightness",
        "mse[letter]",
        "guest_soften",
        "guest_loudness",
        "an inversion changes no sample",
    ):
        assert name in board, name
    assert "not measured in this cell" not in board, "the engine knows why"


def test_a_guests_metric_has_its_own_words_on_the_board_and_in_the_terminal(
    run: tuple[Path, subprocess.CompletedProcess[str]], records: dict[tuple[str, str], Record]
) -> None:
    """Its group, sentence, format and direction come with the run: no file of ours names them."""
    folder, ended = run
    board = (folder / ended.stdout.strip().splitlines()[-1]).read_text()
    assert "<legend>Light</legend>" in board and "<span>brightness</span>" in board
    table = board.partition('data-metric="guest_brightness"')[2].partition("</table>")[0]
    assert "what darkens them costs users." in table
    assert "Higher is better for the defender." in table
    value = records["guest_letter", "none"].metrics["guest_brightness"].value
    assert value is not None and f"{value:.4f}" in table and re.search(r"q\d+", table)
    assert "guest_brightness" in ended.stderr, "a column of the table that the run leaves"
    ours = [*(HERE.parent / "bench").rglob("*.py"), *(HERE.parent / "leaderboard").rglob("*.py")]
    assert not [path for path in ours if "guest" in path.read_text()]


def test_a_changed_guest_is_run_again_and_ours_are_not(
    run: tuple[Path, subprocess.CompletedProcess[str]], planned: list[dict[str, Any]]
) -> None:
    """Its whole package is in the keys of what it makes, and in no other."""
    folder, _ = run
    module = folder / "installed" / "castlewalls_guest" / "detector.py"
    module.write_text(module.read_text().replace("abs()", "square()"))
    after = _plan(folder)
    changed = {stage["stage"] for stage in after if not stage["cached"]}
    assert all(stage["cached"] for stage in planned)
    # The detector, and the attack and defenses that share its package; nothing that is ours alone.
    assert {"score", "train", "record"} <= changed and "reference" not in changed


def test_a_measurement_that_nobody_named_is_not_imported(
    run: tuple[Path, subprocess.CompletedProcess[str]], planned: list[dict[str, Any]]
) -> None:
    """It would run where all numbers are made, its package's own among them."""
    folder, _ = run
    stages = _plan(folder, **{TRUSTED: ""})
    assert not [stage for stage in stages if "guest_brightness" in json.dumps(stage)]
    assert [stage for stage in planned if "guest_brightness" in json.dumps(stage)]
    listed = _castlewalls(folder, "doctor", "--json", **{TRUSTED: ""})
    (check,) = (one for one in json.loads(listed.stdout) if one["name"] == "measurements")
    assert check["status"] == "note" and "guest_brightness" in check["detail"]
    refused = _castlewalls(folder, "plan", "guest.yaml", **{TRUSTED: "guest_darkness"})
    assert refused.returncode == 2 and "guest_darkness" in refused.stderr
    # On a slow machine it also says what it imports, for whoever wonders what it waits for.
    lines = refused.stderr.strip().splitlines()
    assert len([one for one in lines if "importing the plugin of" not in one]) == 1, lines


def _castlewalls(
    folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE.parent), str(folder / "installed")])
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, TRUSTED: "guest_brightness"} | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )


def _plan(folder: Path, **environment: str) -> list[dict[str, Any]]:
    arguments = ("plan", "guest.yaml", *CELLS, "--store", "store", "--json")
    completed = _castlewalls(folder, *arguments, **environment)
    assert completed.returncode == 0, completed.stderr
    return [json.loads(line) for line in completed.stdout.splitlines()]
