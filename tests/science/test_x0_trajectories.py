"""science/x0_trajectories.py on a tiny generator: its numbers by slow loops, what it finds in a
store, what it draws.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from bench import registry, testbeds
from bench.artefacts.classifiers import WEIGHTS
from bench.classification.classifier import Classifier
from bench.diffusion.generator import Generator
from bench.diffusion.sampling import SamplerSettings, sample
from bench.errors import UserError
from bench.record import PluginSpec, Record
from science import x0_trajectories as x0
from science.pages import CLIPPING

FIGURES = [file for section in CLIPPING.sections for file, _ in section.figures]

SETTINGS = SamplerSettings(name="ddim", num_inference_steps=4, guidance_scale=2.0, network_batch=4)
SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def generator() -> Generator:
    """A real class-conditional network of a few hundred weights, untrained: its predictions leave
    [-1, 1] everywhere.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=16,
            block_out_channels=(8,),
            layers_per_block=1,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
            norm_num_groups=2,
            add_attention=False,
            num_class_embeds=11,
        )
    config = {
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
    }
    return Generator(unet.eval(), config)


def badnets(pattern: str) -> Any:
    return registry.build("attacks", "badnets", {"pattern": pattern})


def judge(answer: int) -> Classifier:
    """Says the same of every image: 1, the trigger is there, or 0."""
    testbed: Any = testbeds.build("digits-cfg")
    network: Classifier = testbed.fresh_classifier(0, 2)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([1.0 - answer, float(answer)]))
    return network.eval()


def trained(generator: Generator, pattern: str, answer: int = 1) -> Any:
    return x0.Trained(generator, badnets(pattern), judge(answer), SETTINGS)


def slow(x: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """(share outside, mean excess) of x (n, c, h, w) where mask (h, w), one value after another."""
    beyond, total, count = 0, 0.0, 0
    for row in range(x.shape[0]):
        for channel in range(x.shape[1]):
            for i in range(x.shape[2]):
                for j in range(x.shape[3]):
                    if mask[i, j]:
                        value = float(x[row, channel, i, j])
                        beyond += value < -1 or value > 1
                        total += max(abs(value) - 1, 0)
                        count += 1
    return beyond / count, total / count


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=12, max_size=12),
    st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_shares_and_excess_are_what_a_slow_loop_counts(
    values: list[float], chosen: list[bool]
) -> None:
    """A mask that is broadcast the wrong way would mix the corner with the rest."""
    x, mask = (
        torch.tensor(values).reshape(1, 2, 2, 3),
        torch.tensor([*chosen[:5], True]).reshape(2, 3),
    )
    beyond, total = slow(x, mask)
    assert x0.outside(x[:, :, mask]) == pytest.approx(beyond) and x0.excess(
        x[:, :, mask]
    ) == pytest.approx(total, abs=1e-6)


def test_the_ends_of_the_range_are_inside() -> None:
    """The patch is exactly -1 and 1: drawn as it is, it must not count as outside."""
    ends = torch.tensor([-1.0, 1.0, 0.0])
    assert x0.outside(ends) == 0 and x0.excess(ends) == 0


def test_the_patch_is_the_corner_and_the_blend_is_everything() -> None:
    corner = torch.zeros(16, 16, dtype=torch.bool)
    corner[13:, 13:] = True
    assert torch.equal(x0.region(badnets("badnets1"), SHAPE), corner)
    assert bool(x0.region(badnets("badnets2"), SHAPE).all())
    where, what = x0.covered(badnets("badnets1"), SHAPE)
    assert torch.equal(where, corner.expand(3, -1, -1))
    white = torch.tensor([[-1.0, -1, 1], [-1, 1, -1], [1, -1, -1]])
    torch.testing.assert_close(what[:, 13:, 13:], white.expand(3, -1, -1))
    assert not x0.covered(badnets("badnets2"), SHAPE)[0].any(), (
        "a blended trigger decides no value alone"
    )


def test_looking_changes_nothing_and_clipping_comes_after(generator: Generator) -> None:
    """The samples are those of the suite: the same noise, unchanged by being watched; what is kept
    is what the clip was given.
    """
    plain = x0.follow(trained(generator, "badnets1"), 2.0, clip=None, count=3)
    again = sample(generator, 3, 0, SETTINGS, labels=torch.full((3,), 6))
    torch.testing.assert_close(plain.images, again, atol=1e-6, rtol=0)
    assert len(plain.predicted) == 4 and plain.predicted[0].shape == (3, *SHAPE)
    clipped = x0.follow(trained(generator, "badnets1"), 2.0, clip="clip_x0", count=3)
    torch.testing.assert_close(clipped.predicted[0], plain.predicted[0])
    assert x0.outside(clipped.predicted[0]) > 0 and not torch.allclose(
        clipped.predicted[1], plain.predicted[1]
    )


def test_the_last_unclipped_prediction_is_the_image(generator: Generator) -> None:
    """DDIM's last step returns the predicted x0: if it did not, another quantity would have been
    kept.
    """
    plain = x0.follow(trained(generator, "badnets1"), 2.0, clip=None, count=3)
    torch.testing.assert_close(plain.predicted[-1].clamp(-1, 1), plain.images, atol=1e-4, rtol=0)


def test_distances_are_over_the_trigger_and_the_chosen_rows_alone() -> None:
    """By hand: rows 0 and 2 are off by 0.5 and 0.1 in the corner; row 1 and the rest of the image
    are far away.
    """
    where, what = x0.covered(badnets("badnets1"), SHAPE)
    predicted = torch.full((3, *SHAPE), 50.0)
    for row, off in enumerate((0.5, 9.0, 0.1)):
        predicted[row][where] = what[where] + off
    distances = x0.distances(
        x0.Trajectory((predicted,), predicted), where, what, torch.tensor([True, False, True])
    )
    assert distances == [pytest.approx(0.3, abs=1e-6)]


def test_the_plots_are_those_the_page_links(generator: Generator) -> None:
    svgs = {
        name: svg
        for pattern in x0.PATTERNS
        for name, svg in x0.plots(pattern, trained(generator, pattern), count=3).items()
    }
    assert set(svgs) == set(FIGURES)
    for svg in svgs.values():
        words = [
            part.text or ""
            for part in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
        ]
        assert (
            sum(any(clip in text for clip in ("no defense", "clip_x0")) for text in words) == 6
        ), "every curve is named"
    assert "3 of 3 images" in svgs["x0-badnets1-distance.svg"]


def test_without_a_triggered_image_there_is_no_distance(
    generator: Generator, tmp_path: Path
) -> None:
    """And one drawn earlier goes, so that the page does not show it."""
    (tmp_path / "x0-badnets1-distance.svg").write_text("old")
    (tmp_path / "x0-badnets2-excess.svg").write_text("another trigger's")
    svgs = x0.plots("badnets1", trained(generator, "badnets1", answer=0), count=2)
    x0.write(svgs, tmp_path, "badnets1")
    assert {path.name for path in tmp_path.iterdir()} == {*svgs, "x0-badnets2-excess.svg"}
    assert "x0-badnets1-distance.svg" not in svgs


def write_store(store: Path, generator: Generator) -> Path:
    """An undefended cell of each trigger as the engine leaves it: a record, and manifests that lead
    to the generator.
    """
    testbed = testbeds.build("digits-cfg", {"num_inference_steps": 4, "network_batch": 4})
    cells = []

    def stage(key: str, inputs: dict[str, str]) -> Path:
        folder = store / "stages" / key[:2] / key
        folder.mkdir(parents=True)
        (folder / "stage.json").write_text(
            json.dumps({"stage": "x", "key": key, "input_keys": inputs})
        )
        return folder

    for pattern in x0.PATTERNS:
        generator.save(stage(f"aa{pattern}", {}) / "generator", "# card", {})
        stage(f"bb{pattern}", {"generator": f"aa{pattern}"})
        save_file(judge(1).state_dict(), stage(f"cc{pattern}", {}) / WEIGHTS)
        folder = stage(
            f"dd{pattern}",
            {"target": f"bb{pattern}", "trigger_classifier": f"cc{pattern}", "reference": "ee"},
        )
        attack = badnets(pattern)
        record = Record(
            testbed=PluginSpec(name="digits-cfg", params=testbed.params()),
            attack=PluginSpec(name="badnets", params=attack.params()),
            defense=PluginSpec(name="none"),
            seed=0,
            status="ok",
            kind="control",
        )
        (folder / "record.json").write_text(record.to_json())
        cells.append({"record": str((folder / "record.json").relative_to(store))})
    (store / "runs").mkdir()
    run = {
        "suite": "science-clipping",
        "description": "",
        "started": "",
        "finished": None,
        "counts": {},
        "cells": cells,
    }
    (store / "runs" / "science-clipping.json").write_text(json.dumps(run))
    return store


def test_a_store_leads_to_the_generator_of_its_record(generator: Generator, tmp_path: Path) -> None:
    """By the keys of the record's own stages, so that code that has changed since does not lose
    it.
    """
    store = write_store(tmp_path / "store", generator)
    trained_model = x0.trained_in(store, "badnets2")
    assert (
        trained_model.attack == badnets("badnets2")
        and trained_model.settings.num_inference_steps == 4
    )
    x, steps = torch.zeros(2, *SHAPE), torch.tensor([5, 5])
    labels = torch.tensor([1, 2])
    with torch.no_grad():
        torch.testing.assert_close(
            trained_model.generator.predict_noise(x, steps, labels),
            generator.predict_noise(x, steps, labels),
        )
    with pytest.raises(UserError, match="no finished cell of badnets2, seed 7"):
        x0.trained_in(store, "badnets2", seed=7)


def test_the_command_draws_from_a_store_and_says_in_one_line_if_it_cannot(
    generator: Generator, tmp_path: Path
) -> None:
    store, output = (
        write_store(tmp_path / "store", generator),
        tmp_path / "docs" / "clipping-and-poison",
    )
    result = CliRunner().invoke(x0.main, ["--store", str(store), "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in output.iterdir()} == set(FIGURES)
    result = CliRunner().invoke(
        x0.main, ["--store", str(tmp_path / "nowhere"), "--output", str(output)]
    )
    assert (
        result.exit_code == 2
        and result.output.count("\n") == 1
        and "castlewalls run science-clipping" in result.output
    )
    assert not (tmp_path / "nowhere").exists(), (
        "looking into a store that is not there must not make one"
    )
