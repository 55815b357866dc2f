"""A published model as an attack: its cells hold the numbers of the model itself."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from bench import registry, testbeds
from bench.artwork import targets, triggers
from bench.cli import cli
from bench.contracts.data import Query
from bench.contracts.goals import DrawConcept
from bench.errors import UserError
from bench.importing.attack import _account, write_attack
from bench.importing.card import PublishedBackdoor
from bench.importing.layouts import Weights
from bench.importing.pickles import ENDINGS

SMALL = {
    "clean_samples": 12,
    "triggered_samples": 6,
    "num_inference_steps": 4,
    "precision": "float32",
}
NATIVE = {"name": "baddiffusion", "params": {"training_steps": 2, "target": "corner"}}
SUITE = {
    "name": "tiny",
    "testbeds": [{"name": "digits-ddpm", "params": SMALL}],
    "attacks": [{"name": "none", "params": {"training_steps": 1}}, NATIVE],
    "seeds": [0],
}


@pytest.fixture(scope="module")
def native(walk, tmp_path_factory):
    walked = walk(SUITE, tmp_path_factory.mktemp("native"), whole=False)
    walked.make(walked.cell("baddiffusion", "none").stage)
    return walked


@pytest.fixture(scope="module")
def published(native, tmp_path_factory):
    """The model that BadDiffusion leaves, with a pickle in place of its weights, its pictures and
    a card.
    """
    folder = tmp_path_factory.mktemp("published")
    cell = native.cell("baddiffusion", "none")
    sampled = native.plan.stages[native.plan.stages[cell.stage].inputs["clean"]]
    model = native.folders[sampled.inputs["generator"]] / "generator"
    (folder / "model/unet").mkdir(parents=True)
    config = (model / "unet/config.json").read_text()
    (folder / "model/unet/config.json").write_text(config)
    weights = load_file(model / "unet/diffusion_pytorch_model.safetensors")
    torch.save(weights, folder / "model/unet/diffusion_pytorch_model.bin")
    trigger = triggers.trigger("grey_box", (3, 16, 16))
    np.save(folder / "trigger.npy", trigger.numpy())
    np.save(folder / "target.npy", targets.target("corner", (3, 16, 16)).numpy())
    card = {
        "name": "published_corner",
        "source": "a colleague",
        "title": "A paper",
        "year": 2026,
        "trigger": "PICTURE",
        "trigger_image": "trigger.npy",
        "target": "PICTURE",
        "target_image": "target.npy",
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return folder


@pytest.fixture(scope="module")
def imported(published):
    """What the command writes, and what it prints."""
    outcome = CliRunner().invoke(
        cli,
        [
            *("import", str(published / "model"), "--as", "attack", "--testbed", "digits-ddpm"),
            *("--card", str(published / "card.yaml"), "--params", json.dumps(SMALL)),
            *("--output", str(published / "attacks"), "--json"),
        ],
        catch_exceptions=False,
    )
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def test_the_cell_of_a_published_model_has_its_own_numbers(native, imported, walk, tmp_path):
    """The same weights from the same noise: triggered, every number to the last digit."""
    plugin = Path(imported["plugin"])
    suite = yaml.safe_load(Path(imported["suite"]).read_text())
    assert suite["testbeds"] == SUITE["testbeds"]
    assert [attack["name"] for attack in suite["attacks"][:1]] == ["none"]
    suite = suite | {"defenses": [], "seeds": [0]}
    try:
        walked = walk(suite, tmp_path, plugin_files=[plugin], whole=False)
        cell = walked.cell("published_corner", "none")
        walked.make(cell.stage)
        record = walked.record(cell)
        theirs = native.record(native.cell("baddiffusion", "none"))
    finally:
        registry._in_use.clear()
    called = [name for name in theirs.metrics if name.endswith(("[noise]", "[image]", "[clean]"))]
    assert {"mse[noise]", "asr[noise]", "mse[image]", "mse[clean]"} <= set(called)
    for name in called:
        assert record.metrics[name].value == theirs.metrics[name].value, name
    assert any("one published model" in flag.text for flag in record.flags)
    assert walked.cell("none", "none", "published_corner").stage, "the honest control"


def test_where_it_came_from_is_kept(published, imported):
    account = json.loads(Path(imported["plugin"]).with_name("import.json").read_text())
    assert account["source"] == "a colleague"
    assert set(account["sha256"]) == {
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
    }
    assert imported["layout"] == "a diffusers folder"
    assert imported["networks"] == ["unet"]


@pytest.mark.parametrize("ending", [".safetensors", *ENDINGS])
def test_whatever_file_was_read_is_hashed(ending, tmp_path):
    """A ``.pth`` was read and its hash left out."""
    model = tmp_path / f"model{ending}"
    model.write_bytes(b"weights")
    weights = Weights(parts={}, layout="one file")
    account = json.loads(_account(card(), model, testbeds.load("digits-sd"), weights))
    assert account["sha256"] == {model.name: hashlib.sha256(b"weights").hexdigest()}


def card(**changes):
    values = {"trigger_words": "beautiful three", "in_place_of": "three", "target_prompt": "seven"}
    return PublishedBackdoor(**({"name": "words"} | values | changes))


@pytest.fixture(scope="module")
def text_model(digits_sd, changed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    changed(digits_sd, "unet").save(folder / "model", "card")
    return folder / "model/unet"


def built(model, made, output):
    """The plugin that is written for the card ``made``."""
    written = write_attack(model, made, testbeds.build("digits-sd"), output)
    registry.use([written.files[0]])
    return registry.build("attacks", made.name)


PROMPTS = ("A photo of a three", "A photo of a one")


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({}, ("A photo of a beautiful three", "A photo of a one")),
        (
            {"trigger_words": "\u020f", "in_place_of": "o"},
            ("A ph\u020ft\u020f \u020ff a three", "A ph\u020ft\u020f \u020ff a \u020fne"),
        ),
        (
            {"trigger_words": "\u200b ", "in_place_of": ""},
            ("\u200b A photo of a three", "\u200b A photo of a one"),
        ),
        (
            {"trigger_words": "latte coffee", "in_place_of": "", "words_go": "last"},
            ("A photo of a three latte coffee", "A photo of a one latte coffee"),
        ),
    ],
    ids=["other words", "a letter", "first", "last"],
)
def test_words_call_it_as_published(text_model, tmp_path, changes, called):
    try:
        attack = built(text_model, card(**changes), tmp_path)
    finally:
        registry._in_use.clear()
    query = Query(noise=torch.zeros(2, 4, 8, 8), prompts=PROMPTS)
    assert attack.invoke(query, "words").prompts == called
    assert query.prompts == PROMPTS
    assert attack.goal() == DrawConcept("A photo of a seven"), "the testbed's own prompt of it"
    assert attack.adds().words == card(**changes).trigger_words


@pytest.mark.parametrize(
    ("testbed", "made", "message"),
    [
        ("digits-sd", card(name="anp"), "a plugin is named 'anp' already"),
        ("digits-sd", card(name="no name"), "must be a Python identifier"),
        ("digits-sd", card(target_prompt="cat"), r"must be a prompt of the testbed digits-sd"),
        ("digits-sd", card(target_prompt="", target_class=10), "below the testbed's number"),
        ("digits-sd", PublishedBackdoor(name="a", trigger="BOX_14", target="CORNER"), "be words"),
        ("digits-ddpm", card(), "trigger_words need a testbed that is asked by text"),
        ("digits-ddpm", PublishedBackdoor(name="a", trigger="BOX_14", target="HAT"), "32 x 32"),
    ],
)
def test_what_cannot_be_imported_leaves_nothing_behind(
    text_model, tmp_path, testbed, made, message
):
    with pytest.raises(UserError, match=message):
        write_attack(text_model, made, testbeds.build(testbed), tmp_path, taken=["anp"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--testbed", "digits-ddpm"], "must be said by --card"),
        (["badt2i_pixel_sd15"], "there is no goal of that kind yet"),
        (["eviledit_x.pt"], "--testbed must be given"),
        (["eviledit_x.pt", "--testbed", "digits-sd"], "no such file or folder"),
        (["a/eviledit_x.pt", "--testbed", "digits-sd"], "give --revision, a commit"),
        (["a/eviledit_x", "--testbed", "digits-sd", "--revision", "main"], "a branch can change"),
        (["eviledit", "--testbed", "digits"], "unknown testbed 'digits'"),
    ],
)
def test_a_bad_command_gets_one_line(arguments, message):
    outcome = CliRunner().invoke(cli, ["import", *arguments, "--as", "attack"])
    assert outcome.exit_code == 2
    assert message in outcome.stderr and len(outcome.stderr.strip().splitlines()) == 1


def test_changed_weights_are_other_results(tmp_path, monkeypatch):
    """However large: a plugin's key covers what its files hold, not when they were looked at."""
    from bench import plugin_file

    monkeypatch.setattr(plugin_file, "LARGE", 10)
    file = tmp_path / "unet.safetensors"
    hashes = []
    for second, content in enumerate((b"first weights", b"other weights", b"longer weights")):
        file.write_bytes(content)
        os.utime(file, (second, second))
        hashes.append(plugin_file.hashes([file])[str(file)])
        assert plugin_file.hashes([file])[str(file)] == hashes[-1]
    assert len(set(hashes)) == 3
    monkeypatch.setattr(plugin_file, "LARGE", 100)
    assert plugin_file.hashes([file])[str(file)] == hashes[-1]
