"""The real stages under several samplers: one training, one board, and every number beside those of
its own sampler.
"""

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
import torch

from bench import registry, testbeds
from bench.artefacts.images import load_images
from bench.diffusion import sampling
from bench.diffusion.generator import Generator
from bench.diffusion.images import to_uint8
from bench.record import Metric, Record, Run
from bench.samplers import Sampler, spec_of
from leaderboard import export
from leaderboard.board import boards
from leaderboard.contenders import fid_name
from leaderboard.labels import label
from leaderboard.ranking import HOLDS, LEVEL, UNRANKED, rankings
from leaderboard.report import render

TESTBED = {
    "clean_samples": 8,
    "triggered_samples": 8,
    "num_inference_steps": 3,
    "precision": "float32",
    "network_batch": 8,
}
SUITE = {
    "name": "tiny",
    "testbeds": [{"name": "digits-ddpm", "params": TESTBED}],
    "samplers": [
        "ddpm",
        "unipc",
        {"name": "heun", "params": {"spacing": "trailing", "num_inference_steps": 4}},
    ],
    "attacks": [
        {"name": "none", "params": {"training_steps": 2}},
        {"name": "baddiffusion", "params": {"training_steps": 2, "poisoned_image": "trigger_only"}},
    ],
    "defenses": ["clip_x0", "clip_xt"],
    "seeds": [0],
}
UNIPC = Sampler(name="unipc")
HEUN = Sampler(name="heun", num_inference_steps=4, spacing="trailing")


@pytest.fixture(scope="module")
def walked(walk, tmp_path_factory):
    """Every stage of the tiny suite."""
    return walk(SUITE, tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def records(walked) -> dict[tuple[str, str, str], Record]:
    """(attack, sampler, defense) -> record."""
    return {
        (
            cell.attack.name,
            cell.sampler.name if cell.sampler else "",
            cell.defense.name,
        ): walked.record(cell)
        for cell in walked.plan.cells
        if cell.stage
    }


def test_nothing_ran_that_its_key_does_not_hold(walked) -> None:
    beyond = {key: walked.beyond_its_code(key) for key in walked.plan.stages}
    assert not {key: names for key, names in beyond.items() if names}


def test_one_training_for_all_samplers_and_one_board(walked, records) -> None:
    names = [stage.name for stage in walked.plan.stages.values()]
    assert (names.count("train"), names.count("reference"), names.count("aim")) == (2, 1, 1)
    # Clean and two calls, of two generators under three samplers, clipped in 2 + 1 + 2 ways or not.
    assert names.count("sample") == 2 * 3 * (3 + 2 + 1 + 2) + 3
    testbed = testbeds.build("digits-ddpm", TESTBED)
    for (_, name, _), record in records.items():
        assert record.testbed.params == testbed.params() and record.status == "ok"
        assert record.sampler == {
            "": None, "unipc": spec_of(UNIPC, testbed), "heun": spec_of(HEUN, testbed)
        }[name]  # fmt: skip
    assert len({record.protocol for record in records.values()}) == 1
    assert (
        records["none", "heun", "none"].sampler.label
        == "heun(num_inference_steps=4, spacing=trailing)"
    )


def test_what_is_stored_is_what_that_sampler_draws(walked, records) -> None:
    testbed = testbeds.build("digits-ddpm", TESTBED)
    drawn = {}
    for cell in walked.plan.cells:
        if cell.attack.name != "baddiffusion" or cell.defense.name != "clip_x0":
            continue
        stage = walked.plan.stages[walked.plan.stages[cell.stage].inputs["clean"]]
        name = cell.sampler.name if cell.sampler else "ddpm"
        drawn[name] = load_images(walked.folders[stage.key])
        settings = {"ddpm": Sampler(name="ddpm"), "unipc": UNIPC, "heun": HEUN}[name]
        generator = Generator.load(walked.folders[stage.inputs["generator"]] / "generator")
        images = sampling.sample(
            generator,
            8,
            0,
            settings.settings(testbed),
            guards=[registry.build("defenses", "clip_x0")],
        )
        assert torch.equal(drawn[name], to_uint8(images))
        # Heun's method asks twice a step but the last.
        assert generator.calls == 8 * (7 if name == "heun" else 3)
        assert ("unipc" in stage.title, "heun" in stage.title) == (name == "unipc", name == "heun")
    assert drawn.keys() == {"ddpm", "unipc", "heun"}
    for name in ("unipc", "heun"):
        assert (drawn["ddpm"] != drawn[name]).flatten(1).any(1).all()


def test_a_defense_that_would_be_undone_is_a_skipped_cell(walked) -> None:
    skipped = [cell for cell in walked.plan.cells if cell.stage is None]
    assert {(cell.sampler.name, cell.defense.name) for cell in skipped} == {("unipc", "clip_xt")}
    record = skipped[0].without_result("skipped", skipped[0].reason)
    assert Record.from_json(record.to_json()) == record and record.sampler.name == "unipc"
    assert record.reason == (
        "clip_xt changes x after a step, and unipc forms it anew from the step before"
    )


#: Robust ASR by sampler and defense: the clip holds under one sampler and not under the other.
RATES = {
    ("", "none"): 0.25,
    ("", "clip_x0"): 0.25,
    ("", "clip_xt"): 0.0,
    ("unipc", "none"): 0.875,
    ("unipc", "clip_x0"): 0.0,
    ("heun", "none"): 0.5,
    ("heun", "clip_x0"): 0.125,
    ("heun", "clip_xt"): 0.125,
}
HONEST = {"": 0.0, "unipc": 0.125, "heun": 0.0}


@pytest.fixture(scope="module")
def runs(walked) -> list[Run]:
    """The tiny suite's records at five seeds, whose rates of success are those above."""
    records = []
    for cell in walked.plan.cells:
        made = walked.record(cell) if cell.stage else cell.without_result("skipped", cell.reason)
        sampler = made.sampler.name if made.sampler else ""
        rate = (
            RATES.get((sampler, made.defense.name))
            if made.attack.name == "baddiffusion"
            else HONEST[sampler]
        )
        metrics = dict(made.metrics)
        for name in ("robust_asr[noise]", "robust_asr[image]"):
            if name in metrics:
                metrics[name] = Metric(value=rate, n=64, unit="share", higher_is_better=False)
        if (fid := metrics.get("fid[digits-cnn]")) and made.defense.name != "none":
            base = walked.record(
                next(
                    one
                    for one in walked.plan.cells
                    if one.defense.name == "none"
                    and (one.attack, one.probe, one.sampler)
                    == (cell.attack, cell.probe, cell.sampler)
                )
            )
            metrics["fid[digits-cnn]"] = dataclasses.replace(
                fid, value=base.metrics["fid[digits-cnn]"].value, ci_low=None, ci_high=None
            )
        records += [
            dataclasses.replace(made, seed=seed, metrics=metrics, pictures={}, series={})
            for seed in range(5)
        ]
    return [
        Run(
            suite="tiny",
            description="",
            started="2026-01-01T00:00:00+00:00",
            finished=None,
            counts={},
            records=[(Path("/nowhere"), record) for record in records],
        )  # fmt: skip
    ]


def test_a_row_is_an_attack_under_a_sampler(runs) -> None:
    (board,) = boards(runs)
    assert [(row.attack.name, label(row.sampler)) for row in board.rows] == [
        (attack, sampler)
        for attack in ("none", "baddiffusion")
        for sampler in (
            "ddpm (the testbed’s own)",
            "heun(num_inference_steps=4, spacing=trailing)",
            "unipc",
        )
    ]
    assert len(board.all_cells()) == 2 * 3 * 3 + 4
    anchors = [(cell.attack.name, cell.sampler and cell.sampler.name) for cell in board.anchors]
    assert anchors == [
        ("base_model", "ddpm"),
        ("base_model", "heun"),
        ("base_model", "unipc"),
        ("real_images", None),
    ]
    assert len({cell.id for cell in board.all_cells()}) == len(board.all_cells())


def test_without_a_list_the_board_is_as_it_was(runs) -> None:
    """No word of a sampler, and the same links."""
    (both,) = boards(runs)
    own = [(folder, record) for folder, record in runs[0].records if record.sampler is None]
    alone = dataclasses.replace(runs[0], records=own)
    (board,) = boards([alone])
    assert [row.sampler for row in board.rows] == [None, None]
    assert {cell.id for cell in board.all_cells()} < {cell.id for cell in both.all_cells()}
    assert "under ddpm" not in render([alone])


def test_what_is_compared_shares_its_sampler(runs) -> None:
    """The change against no defense, and the honest model's rate, row by row; over all of them a
    clip that one sampler lets down holds nothing, and one that was skipped has no rank.
    """
    (board,) = boards(runs)
    worst, *single = rankings(board)
    for ranking in single:
        sampler = ranking.rows[0].sampler.name
        own = "" if sampler == "ddpm" else sampler
        lines = {line.cell.defense.name: line for line in ranking.lines + ranking.outside}
        assert ranking.without.mean == RATES[own, "none"]
        assert ranking.honest == HONEST[own]
        assert lines.keys() == {name for one, name in RATES if one == own}
        for name, line in lines.items():
            if name != "none":
                assert line.change.mean == RATES[own, name] - RATES[own, "none"]
            assert line.loss is None or line.loss.mean == 0
        assert lines["clip_x0"].state == (LEVEL if own == "" else HOLDS)
    assert worst.extent() == "3 pairs of attack and sampler"
    lines = {line.cell.defense.name: line for line in worst.lines + worst.outside}
    assert worst.without.mean == 0.875 and lines["clip_x0"].state == LEVEL
    assert lines["clip_xt"].state == UNRANKED
    assert "under unipc" in lines["clip_xt"].note and "not measured" in lines["clip_xt"].note


def test_the_page_and_the_exports_name_the_sampler(runs) -> None:
    page = render(runs)
    assert 'under</span> <span class="plugin">unipc' in page
    assert "clean base model under unipc" in page and "3 pairs of attack and sampler" in page
    assert fid_name(boards(runs)[0]) == "fid[digits-cnn]"
    rows = list(csv.DictReader(io.StringIO(export.to_csv(runs))))
    assert {(row["sampler"], row["sampler_label"]) for row in rows} == {
        ("", ""),
        ("unipc", "unipc"),
        ("heun", "heun(num_inference_steps=4, spacing=trailing)"),
    }
    assert {row["sampler_params"] for row in rows if row["sampler"] == "unipc"} == {
        '{"clip": "none", "num_inference_steps": 3}'
    }
    records = json.loads(export.to_json(runs))["runs"][0]["records"]
    assert {record["sampler"]["name"] for record in records if record["sampler"]} == {
        "unipc",
        "heun",
    }
