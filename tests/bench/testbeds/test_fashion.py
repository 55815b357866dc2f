"""What ships of the testbeds on Fashion-MNIST is what it claims to be, and can be made again. Tests
that need all 70,000 images are skipped where they are not; readers have their own, on tiny files
(``test_fashion_data.py``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from bench import doctor, planner, registry, testbeds
from bench.classification.classifier import predict
from bench.classification.training import ClassifierSettings
from bench.composed import name_of
from bench.diffusion import sampling
from bench.errors import UserError
from bench.metrics import fid
from bench.stages.table import STAGES
from bench.suite import load_suite
from bench.testbeds import fashion_cfg, fashion_ddpm
from bench.testbeds import testbed as composition
from bench.testbeds.data import fashion
from bench.testbeds.fashion_cfg import FASHION_CFG
from bench.testbeds.fashion_ddpm import FASHION_DDPM
from bench.testbeds.parts import digits_unet, fashion_cnn
from bench.testbeds.parts.fashion_unet import FashionUNet, unconditional
from bench.testbeds.testbed import Testbed

TESTBEDS = (FASHION_DDPM, FASHION_CFG)
needs_data = pytest.mark.skipif(
    bool(composition.missing(FASHION_CFG)), reason="Fashion-MNIST is not on this machine"
)


@pytest.mark.parametrize("testbed", TESTBEDS, ids=lambda testbed: testbed.name)
def test_weights_are_half_precision_and_small(testbed: Testbed) -> None:
    assert isinstance(testbed.generator, FashionUNet)
    file = testbed.generator.weights
    assert {value.dtype for value in load_file(file).values()} == {torch.float16}
    assert file.stat().st_size <= 4e6 and testbed.base_generator().image_shape == (1, 32, 32)
    assert testbed.generator.faults(testbed) == testbed.features.faults(testbed) == []


def test_the_base_model_draws_the_garments_that_are_asked_for() -> None:
    """The shipped judge recognises them; an untrained network's are the classes by chance."""
    labels = torch.arange(60) % 10
    settings = replace(FASHION_CFG.sampler.settings(), num_inference_steps=10)
    recognised = []
    for generator in (FASHION_CFG.base_generator(), FASHION_CFG.fresh_generator(0)):
        images = sampling.sample(generator.to("cpu"), len(labels), 0, settings, labels=labels)
        drawn = ((images.clamp(-1, 1) + 1) * 127.5).round().byte()
        right = predict(FASHION_CFG.evaluation_classifier(), drawn) == labels
        recognised.append(float(right.float().mean()))
    assert recognised[0] > 0.7 and recognised[1] < 0.3


@needs_data
def test_the_evaluation_classifier_recognises_test_images() -> None:
    """A judge that errs more would put its errors into every share."""
    right = predict(FASHION_CFG.evaluation_classifier(), FASHION_CFG.data.held_out_images())
    assert float((right == FASHION_CFG.data.held_out_labels()).float().mean()) >= 0.91


@needs_data
def test_the_data_are_the_published_ones() -> None:
    data = FASHION_CFG.data
    assert data.faults(FASHION_CFG) == []
    assert data.train_labels().bincount().tolist() == [6000] * 10
    assert data.held_out_labels().bincount().tolist() == [1000] * 10


def test_the_extractor_gives_the_judges_pooled_features() -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 1, 32, 32), generator=draw, dtype=torch.uint8)
    FASHION_CFG.features.register()
    features = fid.extract_features(images, FASHION_CFG.features.extractor)
    expected = fashion_cnn.load_fashion_cnn().features(images.float() / 127.5 - 1)
    assert features.shape == (5, fashion_cnn.FEATURES)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_without_the_data_a_machine_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no part of the package: a note says how to get them, and nothing is a problem."""
    monkeypatch.setattr(fashion, "PLACES", ("nowhere",))
    monkeypatch.setattr(testbeds, "names", lambda: ["fashion-cfg", "fashion-ddpm"])
    checks = {check.name: check for check in doctor._testbeds()}
    for name in ("fashion-cfg", "fashion-ddpm"):
        assert checks[name].status == "note"
        assert "Debian's package dataset-fashion-mnist" in checks[name].detail
    assert not testbeds.is_embedded("fashion-cfg")


def test_the_suites_are_what_was_promised() -> None:
    """FID over 10,000 samples and three seeds, the fewest that are ranked; the cut is of the same
    cells.
    """
    plugins = registry.use()
    whole, cut = (load_suite(name, plugins) for name in ("fashion", "fashion-cut"))
    assert whole.seeds == (0, 1, 2)
    for testbed in TESTBEDS:
        assert testbed.counts.clean_samples == 10_000
    assert {one.label() for one in cut.attacks} <= {one.label() for one in whole.attacks}
    assert {name_of(one) for one in cut.defenses} <= {name_of(one) for one in whole.defenses}


@pytest.mark.parametrize("name", ["fashion", "fashion-cut"])
def test_the_suites_plan_nothing_that_cannot_apply(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board of two kinds of testbed would else be half reasons; every entry is met somewhere."""
    monkeypatch.setattr(
        planner.stages, "fingerprints", lambda testbed: dict.fromkeys(testbed.parts(), "")
    )
    plugins = registry.use()
    suite = load_suite(name, plugins)
    cells = planner.make_plan(suite, plugins, STAGES).cells
    assert [cell.title for cell in cells if cell.stage is None] == []
    columns = {cell.attack.name for cell in cells} | {cell.defense.name for cell in cells}
    assert columns >= {name_of(one) for one in (*suite.attacks, *suite.defenses, *suite.detectors)}


@pytest.fixture
def short(idx_files: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretrainings of a few steps on few images; where they write."""
    folder = str(idx_files.save_fashion(tmp_path / "data"))
    few = {"data": folder, "train_count": 60, "held_out_count": 40}
    for module, name in ((fashion_cfg, "FASHION_CFG"), (fashion_ddpm, "FASHION_DDPM")):
        monkeypatch.setattr(module, name, getattr(module, name).changed(**few))
        settings = replace(module.PRETRAINING, steps=4, batch_size=8)
        monkeypatch.setattr(module, "PRETRAINING", settings)
    monkeypatch.setattr(fashion_ddpm, "STEPS", 4)
    monkeypatch.setattr(fashion_cnn, "TRAINING", ClassifierSettings(steps=2, batch_size=8))
    monkeypatch.setattr(digits_unet, "CHECKPOINT_STEPS", 1)
    return tmp_path / "weights"


def test_pretraining_writes_what_the_testbeds_load(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(testbeds.pretrain("fashion-cfg", short)) == {"final_training_loss"}
    reached = testbeds.pretrain("fashion-ddpm", short)
    assert set(reached) == {"judge_held_out_accuracy", "final_training_loss"}
    assert testbeds.damaged_files(short) == []
    names = {"fashion-cfg", "fashion-ddpm", "fashion-cnn"}
    assert {path.stem for path in short.glob("*.safetensors")} == names
    assert not list(short.glob("*.unfinished"))
    path = property(lambda part: short / f"{part.name}.safetensors")
    monkeypatch.setattr(FashionUNet, "weights", path)
    for testbed in TESTBEDS:
        assert testbed.base_generator().image_shape == (1, 32, 32)


def test_an_interrupted_pretraining_goes_on(short: Path) -> None:
    """To the same bits."""

    class Interrupted(Exception):
        pass

    def stop(step: int, steps: int, what: str) -> None:
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        testbeds.pretrain("fashion-cfg", short / "again", stop)
    steps: list[int] = []
    testbeds.pretrain("fashion-cfg", short / "again", lambda step, *rest: steps.append(step))
    assert steps == [4]
    testbeds.pretrain("fashion-cfg", short / "whole")
    again, whole = (
        load_file(short / one / "fashion-cfg.safetensors") for one in ("again", "whole")
    )
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_missing_weights_say_how_to_make_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = property(lambda part: tmp_path / f"{part.name}.safetensors")
    monkeypatch.setattr(FashionUNet, "weights", path)
    with pytest.raises(UserError, match="make them with `castlewalls pretrain fashion-ddpm`"):
        FASHION_DDPM.base_generator()


def test_the_unconditional_start_answers_as_for_the_null_label() -> None:
    conditional = FASHION_CFG.fresh_generator(0)
    generator = unconditional(conditional, FASHION_DDPM.fresh_generator(1))
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([0, 500, 999])
    with torch.no_grad():
        null = conditional.predict_noise(x, timesteps)
        torch.testing.assert_close(
            generator.predict_noise(x, timesteps), null, rtol=1e-4, atol=1e-5
        )
        labelled = conditional.predict_noise(x, timesteps, torch.tensor([0, 1, 2]))
    assert float((labelled - null).abs().max()) > 0.01
