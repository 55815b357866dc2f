"""What a suite is calculated to cost: operations and bytes against closed forms and torch's own
autocast, images against the loops that draw them.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from bench.artefacts.probes import Probe, requested_count
from bench.diffusion.sampling import sample
from bench.diffusion.training import denoising_loss, train
from bench.errors import UserError
from bench.runner import needs_of
from bench.stages import building
from bench.testbeds import load, names
from benchmarks import cost
from benchmarks.__main__ import entry
from benchmarks.architectures import (
    CELEBAHQ,
    CIFAR10,
    STABLE_DIFFUSION,
    Architecture,
    architecture_of,
)
from benchmarks.outline import (
    GIB,
    Estimate,
    LiveBytes,
    MixedPrecision,
    noise_bytes,
    sampling,
    training,
)
from benchmarks.resume import TINY

ROOT = Path(__file__).resolve().parents[1]
FLOAT, HALF = 4, 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The suite that `resume` runs, with a batch of the network that its samples do not fill."""
    changed = {"name": "tiny", "testbeds": [{**TINY["testbeds"][0]}]}
    changed["testbeds"][0]["params"] = {**TINY["testbeds"][0]["params"], "network_batch": 48}
    file = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | changed))
    return str(file)


def test_operations_of_one_layer_are_the_closed_form() -> None:
    """A multiplication and an addition for each weight and each place it is used at; the backward
    pass does as much for the input and for the weights.
    """
    with torch.device("meta"):
        layer, x = torch.nn.Conv2d(3, 5, 3, padding=1), torch.empty(2, 3, 8, 8)
        linear, row = torch.nn.Linear(7, 11), torch.empty(4, 7, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward([linear(row).sum()])
    assert counter.get_total_flops() == 3 * 2 * 4 * 7 * 11


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_bytes_of_one_layer_are_the_closed_form(dtype: torch.dtype | None) -> None:
    """In float32 a layer makes its output alone; in less, it also keeps its input and weights as
    they were cast.
    """
    with torch.device("meta"):
        layer, x = torch.nn.Linear(7, 11), torch.empty(4, 7, requires_grad=True)
    with LiveBytes() as live, MixedPrecision(dtype):
        y = layer(x)
    output, cast = 4 * 11, 4 * 7 + 7 * 11
    assert live.live == (output * FLOAT if dtype is None else (output + cast) * HALF)
    before = live.live
    with live:
        z = y * 2
    assert live.peak == before + z.numel() * z.element_size()
    assert live.moved >= 2 * z.numel() * z.element_size()
    del z
    assert live.live == before


def test_a_weight_is_cast_once_and_kept_until_the_context_ends() -> None:
    """As autocast's cache does it: without gradients nothing else keeps what was cast."""
    with torch.device("meta"):
        layer, x = torch.nn.Linear(7, 11), torch.empty(4, 7)
    with LiveBytes() as live, torch.no_grad(), MixedPrecision(torch.bfloat16):
        layer(x)
        layer(x)
        assert live.live == (7 * 11 + 11) * HALF
    assert live.live == 0


def test_a_speed_that_was_not_measured_is_the_nearest_one_s() -> None:
    """Of the other half precision, or else of CIFAR-10's network."""
    assert cost.speeds(CELEBAHQ, "float16") == cost.speeds(CELEBAHQ, "bfloat16")
    assert cost.speeds(CELEBAHQ, "float32") == (21.8e12, 17.9e12)
    assert cost.speeds(STABLE_DIFFUSION, "float16") == (93.1e12, 151e12)
    with pytest.raises(UserError, match="no speed is known for int4"):
        cost.speeds(CELEBAHQ, "int4")


def test_views_are_counted_once_and_what_is_freed_is_gone() -> None:
    with LiveBytes() as live:
        x = torch.empty(6, 4, device="meta")
        x.view(24).t()
        assert live.live == 24 * FLOAT
        del x
        torch.empty(1, device="meta")
    assert live.peak == 24 * FLOAT
    assert live.live == 0


def test_mixed_precision_keeps_what_torch_s_autocast_for_cuda_keeps() -> None:
    """To the byte: which operation runs in which type decides what is kept. Tensors that pretend to
    be on a GPU show what torch does there, without one; attention is the same on both sides.
    """
    architecture, images = architecture_of(load("digits-ddpm")), 3
    live = LiveBytes()
    with live:
        networks = architecture.build()
        before = live.live
        with MixedPrecision(torch.bfloat16):
            _ = networks.predict(images)
        ours = live.live - before
    real = LiveBytes()
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    try:
        with FakeTensorMode(), real:
            networks = architecture.build("cuda")
            before = real.live
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            with MixedPrecision(None):
                _ = networks.predict(images, "cuda")
            torch.clear_autocast_cache()
            theirs = real.live - before
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)
    assert ours == theirs > 0


@pytest.mark.parametrize(
    ("architecture", "weights", "gigaflops"),
    [(CIFAR10, 35_746_307, 12.4), (CELEBAHQ, 113_673_219, 497.0)],
)
def test_the_published_networks_are_those(
    architecture: Architecture, weights: int, gigaflops: float
) -> None:
    """Files of 143 and 455 MB have so many weights in float32, and no others."""
    assert sum(weight.numel() for weight in architecture.build().unet.parameters()) == weights
    estimate = sampling(architecture, "float32", 2)
    assert estimate.operations / 1e9 == pytest.approx(gigaflops, rel=0.005)
    assert estimate.standing == FLOAT * weights
    assert estimate.peak > estimate.standing


def test_stable_diffusion_is_that_of_version_1_4() -> None:
    networks = STABLE_DIFFUSION.build()
    counts = [
        sum(weight.numel() for weight in part.parameters())
        for part in (networks.unet, networks.vae, networks.text_encoder)
    ]
    assert counts == [859_520_964, 83_653_863, 123_060_480]


def test_memory_of_training_goes_the_right_way() -> None:
    """Weights and two moments stand; fewer images at once and recomputing keep less; the average of
    the weights is a copy of them.
    """
    testbed = load("digits-ddpm")
    architecture = architecture_of(testbed)
    settings = replace(testbed.training_settings("finetune"), steps=1, ema_decay=None)
    weights = sum(weight.numel() for weight in architecture.build().unet.parameters())
    whole = training(architecture, settings)
    assert 3 * FLOAT * weights <= whole.standing < 3.01 * FLOAT * weights
    averaged = training(architecture, replace(settings, ema_decay=0.9))
    assert averaged.standing - whole.standing == FLOAT * weights
    quarter = training(architecture, replace(settings, accumulation_steps=4))
    assert quarter.kept == pytest.approx(whole.kept / 4, rel=0.02)
    assert quarter.peak < whole.peak
    again = training(architecture, replace(settings, gradient_checkpointing=True))
    assert again.kept < whole.kept
    assert 1.1 < again.operations / whole.operations < 4 / 3
    assert quarter.operations == whole.operations
    drawn = sampling(architecture, "float32", 8)
    assert whole.operations == pytest.approx(3 * drawn.operations, rel=0.02)


def test_noise_moves_more_than_it_draws() -> None:
    assert noise_bytes((3, 16, 16)) > 3 * 16 * 16 * FLOAT
    assert noise_bytes((3, 32, 32)) == pytest.approx(4 * noise_bytes((3, 16, 16)), rel=0.05)


def test_a_margin_is_left() -> None:
    estimate = Estimate(operations=1, standing=0, kept=0, peak=9 * GIB)
    assert (estimate.fits(10), estimate.fits(9.9)) == (True, False)


def test_images_are_those_that_the_loops_put_through_the_network(tiny: str) -> None:
    """Padding and steps counted: what a stage says that it cost."""
    drawn = 0
    generator = load("digits-ddpm").base_generator().to("cpu")
    for stage in cost.planned(tiny).stages.values():
        if stage.name == "sample" and drawn < 3:
            images, settings = cost.images_of_sampling(stage)
            count = requested_count(
                building.testbed_of(stage.params), Probe(**stage.params["draws"])
            )
            before = generator.calls
            sample(generator, count, 0, settings)
            assert generator.calls - before == images
            assert images > count * settings.num_inference_steps
            drawn += 1
        elif stage.name == "train":
            settings_of = cost.settings_of_training(stage)
            assert settings_of.steps == 1  # the attack's own
    assert drawn == 3
    fresh = load("digits-ddpm").fresh_generator(0)
    rows = {"images": torch.zeros(8, 3, 16, 16, dtype=torch.uint8)}
    settings_of = replace(settings_of, batch_size=4, steps=2, precision="float32")

    def loss(predict, rows, noise, timesteps, schedule):
        from bench.diffusion.process import VariancePreserving

        process = VariancePreserving(schedule)
        return denoising_loss(predict, rows["images"], noise, timesteps, process)

    train(fresh, rows, loss, settings_of, 0)
    assert fresh.calls == settings_of.steps * settings_of.batch_size


def test_counts_and_hours_are_the_plan_s(tiny: str) -> None:
    """Nothing is kept by hand: every stage of the plan is counted, or named as not counted."""
    plan, one = cost.planned(tiny), cost.cost(tiny)
    names = Counter(stage.name for stage in plan.stages.values())
    by_kind: Counter[str] = Counter()
    for group in one.groups:
        by_kind["train" if group.what.startswith("training") else "sample"] += group.stages
    assert by_kind == {"train": names.pop("train"), "sample": names.pop("sample")}
    assert one.uncounted == dict(names)
    total = sum(group.stages * group.hours for group in one.groups)
    assert one.hours[1] == pytest.approx(total)
    assert one.chain <= one.hours[8] <= one.hours[2] < one.hours[1]
    for group in one.groups:
        if group.what.startswith("training"):  # small images, float32
            flops = group.images * group.gigaflops * 1e9
            assert group.hours == pytest.approx(flops / 21.8e12 / 3600)


def test_the_document_s_tables_are_what_the_command_prints() -> None:
    """And both suites take less than a day a seed, which is what they are for; on 256 x 256 that
    takes two GPUs.
    """
    text = (ROOT / "docs/paper-scale.md").read_text(encoding="utf-8")
    for suite in cost.SUITES:
        one = cost.cost(suite)
        assert "\n".join(cost.lines_of_cost(one)) in text
        assert one.hours[1 if suite.endswith("cifar10") else 2] < cost.DAY


def test_memory_is_listed_for_every_setting(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = Estimate(operations=1, standing=0, kept=GIB, peak=2 * GIB)
    monkeypatch.setattr(cost, "training", lambda architecture, settings: estimate)
    listed = cost.memory(tiny)
    assert len(listed) == 2
    trainings, samples = listed.values()
    assert [choice.what for choice in trainings[:2]] == [
        "accumulation_steps: 1 (64 images at once)",
        "accumulation_steps: 4 (16 images at once)",
    ]
    assert len(trainings) == 8
    assert [choice.what for choice in samples] == ["network_batch: 48", "network_batch: 12"]
    lines = cost.lines_of_memory(listed)
    assert sum(line.startswith("| ") for line in lines) == 2 * 2 + 8 + 2
    assert "24 GB, 40 GB, 80 GB" in lines[-1]


def test_the_command_says_what_is_assumed(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        entry(["cost", tiny])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Calculated from counts and from speeds that one H100 had")
    assert "`tiny`, seed 0, calculated:" in printed
    done = CliRunner().invoke(cost.main, [tiny, "--json"])
    (document,) = json.loads(done.stdout)["suites"]
    assert document["suite"] == "tiny"
    assert len(document["groups"]) == len(cost.cost(tiny).groups)


def test_a_network_that_is_not_known_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="digits-sd: the shape of its networks is not known here"):
        architecture_of(load("digits-sd"))
    assert CliRunner().invoke(cost.main, ["no-such-suite"]).exit_code != 0


@pytest.mark.parametrize(
    "suite",
    [
        "paper-baddiffusion-day-cifar10",
        "paper-baddiffusion-celebahq",
        "paper-bibaddiff-cifar10",
        "paper-bibaddiff-imagenette",
    ],
)
def test_what_a_testbed_declares_of_a_gpu_is_what_is_calculated(suite: str) -> None:
    """Too little is a job that runs out of memory; too much is a card that stands half empty. At
    most a third is left to what was measured above the calculation (docs/paper-scale.md).
    """
    ((name, needs),) = needs_of([suite]).items()
    peak = max(group.peak for group in cost.cost(suite).groups) / 1e9
    assert needs.gpu and needs.gpu_memory_gb is not None, name
    assert peak <= needs.gpu_memory_gb < 1.33 * peak


@pytest.mark.parametrize(
    ("suite", "kinds"),
    [
        ("paper-baddiffusion-day-cifar10", ("train",)),  # it samples in less than float32
        ("paper-bibaddiff-cifar10", ("train", "sample")),
        ("paper-bibaddiff-imagenette", ("train", "sample")),
    ],
)
def test_the_durations_that_a_testbed_declares_are_those_calculated(
    suite: str, kinds: tuple[str, ...]
) -> None:
    """A job's time limit is made of them before anything was timed."""
    made = {"train": cost._training, "sample": cost._sampling}
    stages = [one for one in cost.planned(suite).stages.values() if one.name in kinds]
    for stage in {(one.name, one.seconds): one for one in stages}.values():
        calculated = 3600 * made[stage.name](stage).hours
        assert stage.seconds == pytest.approx(calculated, rel=0.05), stage.describe()


def test_every_testbed_that_says_it_needs_a_gpu_declares_it() -> None:
    for name in names():
        testbed = load(name)
        assert testbed.resources.gpu is testbed.summary.endswith("GPU"), name
        assert testbed.resources.gpu is (testbed.resources.memory_gb is not None), name
