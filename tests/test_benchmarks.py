"""The benchmarks at their smallest: they run, they time what they say, and they compare like with
like. No timing is asserted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from diffusers import DDPMScheduler
from torch.nn.functional import pixel_unshuffle

from attacks.baddiffusion import BadDiffusion
from bench.diffusion.generator import FOLD, Generator
from bench.diffusion.images import to_uint8, to_unit_range
from bench.diffusion.noise import initial_noise, sample_streams
from bench.diffusion.sampling import SamplerSettings, Start, sample
from bench.engine.graph import Plan, Stage
from bench.engine.schedule import forecast, order, turns_of
from bench.errors import UserError
from bench.metrics import target
from bench.registry import build as build_plugin
from bench.results import published, read_results
from bench.runner import prepare
from bench.stages.queries import Users
from bench.testbeds import build
from benchmarks import board, growth, limits, matrix, peers, plain, resume, units
from benchmarks.__main__ import main, measure
from benchmarks.pruning import compare
from benchmarks.share import Laps, NetworkClock, share
from benchmarks.steps import Stopwatch, steps
from benchmarks.subject import Subject
from benchmarks.timing import Row, Settings, interleaved, ratios
from benchmarks.transcriptions import cell

SMALLEST = Settings(repetitions=2, steps=1, batch_size=4, num_inference_steps=2)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.make()


def test_the_shares_are_shares() -> None:
    """A clock that counts something twice, or misses the backward pass, would give a share that
    flatters or shames the loop.
    """
    rows = {row.quantity: row for row in share(SMALLEST)}
    assert len(rows) == 4
    for row in rows.values():
        assert len(row.values) == SMALLEST.repetitions
        assert all(0 < value < 1 for value in row.values)
    both, forward, backward = (
        rows[f"training: {name}"] for name in ("forward + backward", "forward", "backward")
    )
    assert both.values == pytest.approx(
        [one + other for one, other in zip(forward.values, backward.values, strict=True)]
    )


def test_the_clock_counts_the_network_alone_and_leaves_no_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss arithmetic booked on the network would make the share meaningless; a hook left behind
    would slow the next benchmark.
    """
    now = [0.0]
    monkeypatch.setattr("benchmarks.share.time.process_time", lambda: now[0])

    def spend(seconds: float, value: torch.Tensor) -> torch.Tensor:
        now[0] += seconds
        return value

    class Pass(torch.autograd.Function):
        """Hands a tensor on, spending time both ways."""

        @staticmethod
        def forward(ctx, value, there, back):
            ctx.back = back
            return spend(there, value.clone())

        @staticmethod
        def backward(ctx, gradient):
            return spend(ctx.back, gradient), None, None

    @dataclasses.dataclass
    class Output:
        sample: torch.Tensor

    class Network(torch.nn.Module):
        def forward(self, value):
            return Output(Pass.apply(value, 3.0, 5.0))

    network, clock, original = Network(), NetworkClock(), torch.Tensor.backward
    laps = Laps(clock, start=0, length=1)
    with clock.attached(network):
        laps(0, 2, "steps")
        for step in (1, 2):
            prediction = network(torch.ones(2, requires_grad=True)).sample
            Pass.apply(prediction, 10.0, 20.0).sum().backward()
            laps(step, 2, "steps")
    assert laps.parts() == [(38.0, 3.0, 5.0)] * 2
    assert torch.Tensor.backward is original
    network(torch.ones(2, requires_grad=True)).sample.sum().backward()
    assert (clock.forward, clock.backward) == (6.0, 10.0)


def test_steps_compares_ours_with_plain() -> None:
    """Every step must be there for both sides, and the ratio must be plain over ours: above 1 means
    that ours is faster.
    """
    rows = steps(SMALLEST)
    for what, (ours, plain_, wall, cpu) in (
        ("training step", rows[:4]),
        ("sampling step", rows[4:]),
    ):
        assert [ours.quantity, plain_.quantity] == [f"{what}, ours", f"{what}, plain"]
        assert wall.quantity == cpu.quantity == f"{what}, plain / ours"
        assert wall.values == pytest.approx(
            [slow / fast for slow, fast in zip(plain_.values, ours.values, strict=True)]
        )
        assert min(*ours.values, *plain_.values, *wall.values, *cpu.values) > 0
        assert (wall.goal, cpu.goal) == (0.9, None)


def test_the_plain_loss_is_the_attack_s_loss(subject: Subject) -> None:
    """A plain loop that did less, or other, work than ours would make the ratio say nothing."""
    generator = subject.testbed.base_generator()
    images, poisoned = to_unit_range(subject.poisoned.images[:16]), torch.arange(16) % 2 == 0
    draw = torch.Generator().manual_seed(1)
    noise, timesteps = (
        torch.randn(images.shape, generator=draw),
        torch.randint(1000, (16,), generator=draw),
    )
    scheduler, shape = DDPMScheduler.from_config(generator.scheduler_config), generator.image_shape
    with torch.no_grad():
        rows = {"images": images, "poisoned": poisoned}
        ours = subject.loss(generator.predict_noise, rows, noise, timesteps, generator.schedule)
        by_hand = plain.baddiffusion_loss(
            generator.unet,
            pixel_unshuffle(images, 2),
            poisoned,
            pixel_unshuffle(noise, 2),
            timesteps,
            scheduler.alphas_cumprod,
            scheduler.alphas,
            pixel_unshuffle(subject.attack.trigger_image(shape), 2),
            pixel_unshuffle(subject.attack.target_image(shape), 2),
        )
    assert float(by_hand) == pytest.approx(float(ours), rel=1e-4)


def test_the_plain_loops_train_and_sample(subject: Subject) -> None:
    """A plain loop that skipped its optimiser or its scheduler would be beaten by nobody, or by
    anybody.
    """
    generator = subject.testbed.base_generator()
    scheduler, shape = DDPMScheduler.from_config(generator.scheduler_config), generator.image_shape
    before = next(generator.unet.parameters()).detach().clone()
    done: list[int] = []
    losses = plain.train(
        generator.unet,
        scheduler,
        pixel_unshuffle(to_unit_range(subject.poisoned.images[:32]), 2),
        subject.poisoned.poisoned[:32],
        pixel_unshuffle(subject.attack.trigger_image(shape), 2),
        pixel_unshuffle(subject.attack.target_image(shape), 2),
        steps=2,
        batch_size=4,
        learning_rate=1e-3,
        after_step=done.append,
    )
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
    assert not torch.equal(before, next(generator.unet.parameters()))
    images = plain.sample(generator.unet, scheduler, (2, 12, 8, 8), 3, done.append)
    assert images.shape == (2, 12, 8, 8)
    assert images.abs().max() <= 1
    assert done == [1, 2, 1, 2, 3]


def test_pruning_compares_the_same_images_and_draws() -> None:
    """Fewer calls must be the pruning's doing, and the two must not differ because they looked at
    other images.
    """
    comparison = compare(6, 0)
    assert comparison == compare(6, 0)
    assert 0 < comparison["calls, pruned / not"] < 0.6
    assert 0.5 <= comparison["same prediction, pruned and not"] <= 1


def test_the_stopwatch_leaves_the_start_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first steps allocate and compile; counted in, they would hide what a step costs."""
    times = iter([0.0, 10.0, 20.0, 21.0, 22.0])
    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: next(times))
    watch = Stopwatch(2)
    for done in (1, 2, 3, 4):
        watch(done, 4, "steps")
    assert watch.per_step(2).wall == 1.0


def test_contenders_take_turns() -> None:
    """One side measured first and the other last would compare two hours of a machine, not two
    programs.
    """
    order: list[str] = []
    interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert ratios([3.0, 8.0], [1.0, 2.0]) == (3.0, 4.0)


@pytest.mark.parametrize(("at_least", "reached"), [(True, False), (False, True)])
def test_a_goal_has_a_direction(at_least: bool, reached: bool) -> None:
    """A goal of at most 5 s that counted as reached at 6 s would hide a regression."""
    row = Row(quantity="x", unit="s", values=(9.0, 1.0, 2.0), goal=5, at_least=at_least)
    document = row.as_json()
    assert (document["median"], document["min"], document["max"]) == (2.0, 1.0, 9.0)
    assert (document["reached"], row.reached) == (reached, reached)


def test_resume_times_a_rerun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rerun must be of a suite that was run before, and what is reported must be what it costs
    beyond the imports.
    """
    commands: list[list[str]] = []

    def pretended(command: list[str], threads: int) -> tuple[float, str]:
        commands.append(command[1:])
        return (2.0, "") if command[1] == "-c" else (5.0, json.dumps({"stages_made": 0}))

    monkeypatch.setattr(resume, "_timed", pretended)
    rows = resume.resume(SMALLEST)
    assert [row.values for row in rows] == [(2.0, 2.0), (5.0, 5.0), (3.0, 3.0)]
    assert [command[0] for command in commands] == ["-m", *["-c", "-m"] * 3]
    assert len({tuple(command) for command in commands}) == 2


def test_a_large_board_is_as_large_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records under one name twice would be one cell, and the board a smaller one than is said."""
    monkeypatch.setattr(board, "ATTACKS", 3)
    monkeypatch.setattr(board, "DEFENSES", 5)
    monkeypatch.setattr(board, "TESTBEDS", 2)
    (run,) = (one for one in read_results(published()) if one.suite == board.SUITE)
    made = [record for _, record in board.large(run).records]
    attacked = {one.attack.name for one in made} - {"none"}
    columns = {one.defense.name for one in made} - {"none"}
    assert (len(attacked), len(columns), len({one.testbed.name for one in made})) == (3, 5, 2)
    assert {one.seed for one in made} == {0, 1, 2}
    cells = [
        (one.testbed.name, one.attack, one.probe and one.probe.identity, one.defense, one.seed)
        for one in made
    ]
    assert len({str(cell) for cell in cells}) == len(cells) >= 2 * 3 * 6 * 3
    rows = {row.quantity: row for row in board.board(SMALLEST)}
    assert len(rows[f"a board of {len(made)} records"].values) == SMALLEST.repetitions
    assert rows["its page"].median > 0.3
    assert "opening it" not in rows or rows["its elements"].median > 500
    # The default board weighs what it does on every machine.
    assert 1.0 < rows["the default board's page"].median <= board.DEFAULT_MEGABYTES
    if "opening it" in rows:
        paint, whole = rows["the default board: first paint"], rows["the default board: opening it"]
        assert 0 < paint.median <= whole.median


def test_a_board_without_published_results_is_refused() -> None:
    with pytest.raises(UserError, match="no results of digits are published"):
        board.large(None)


def plan_of(seconds: list[float], *, chained: bool) -> tuple[Plan, dict[str, float]]:
    """Stages of so many seconds: one after another, or side by side."""
    stages: dict[str, Stage] = {}
    for number in range(len(seconds)):
        above = {"above": list(stages)[-1]} if chained and stages else {}
        one = Stage(name="s", params={"number": number}, inputs=above)
        stages[one.key] = one
    return Plan(suite="s", cells=(), stages=stages), dict(zip(stages, seconds, strict=True))


def test_a_simulated_run_takes_what_it_must() -> None:
    """By hand where that is possible, and as the live board forecasts it for a real graph."""
    plan, seconds = plan_of([3.0, 2.0, 1.0], chained=True)
    assert [growth.simulated(plan, seconds, workers) for workers in (1, 9)] == [6.0, 6.0]
    plan, seconds = plan_of([3.0, 2.0, 1.0], chained=False)
    assert [growth.simulated(plan, seconds, workers) for workers in (1, 2, 9)] == [6.0, 3.0, 3.0]
    real = prepare("digits", device="cpu").plan
    took = {key: stage.seconds or 0.0 for key, stage in real.stages.items()}
    queue = order(real.stages, real.stages, turns_of([real]))
    for workers in (1, 3, 50):
        expected = forecast(real.stages, queue, lambda stage: took[stage.key], workers)
        # Of two stages that end at once either may be the first.
        last = max(expected.values())
        assert growth.simulated(real, took, workers) == pytest.approx(last, rel=0.01)


def test_workers_that_are_taken_away_cost_what_they_should() -> None:
    """A stage of T seconds that is begun anew whenever its worker is lost, rate a second: in the
    mean (e^(rate T) - 1) / rate seconds of work, and e^(rate T) - 1 absences.
    """
    plan, seconds = plan_of([3600.0], chained=True)
    draws = random.Random(0)
    took = [growth.simulated(plan, seconds, 1, 0.5, draws) for _ in range(20_000)]
    again = math.exp(0.5) - 1
    expected = again / (0.5 / 3600) + again * growth.AWAY_SECONDS
    assert sum(took) / len(took) == pytest.approx(expected, rel=0.02)


def test_growth_plans_schedules_and_simulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "CELLS", 800)
    monkeypatch.setattr(growth, "STAGES", 20)
    monkeypatch.setattr(growth, "SUITE", "digits-cut")
    monkeypatch.setattr(growth, "RUNS", 2)
    rows = growth.growth(dataclasses.replace(SMALLEST, repetitions=1))
    names = [row.quantity for row in rows]
    assert names[:2] == [
        "each of 20 stages of nothing, 2 workers",
        "of which the executor's own CPU",
    ]
    assert [one for one in names if "CPU" in one][1:] == [
        "planning 802 cells, CPU",
        "deciding on each of 20 stages, CPU",
        "deciding on each of 200 stages, CPU",
    ]
    by_name = {row.quantity: row.median for row in rows}
    work, chain = (
        by_name["digits-cut: work of 712 stages"],
        by_name["digits-cut: its longest chain"],
    )
    assert work == pytest.approx(by_name["digits-cut: 1 workers"]) and work > chain
    assert all(0 < by_name[one] <= 1.001 for one in names if "least possible" in one)


def test_the_tiny_suite_is_one_the_engine_takes(tmp_path: Path) -> None:
    """A renamed plugin or parameter would fail `make bench` at its last benchmark."""
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(resume.TINY))
    plan = prepare(str(file)).plan
    stages = {stage.name for stage in plan.stages.values()}
    assert {"train", "sample", "measure"} <= stages
    steps_trained = {
        stage.params["attack"]["params"]["training_steps"]
        for stage in plan.stages.values()
        if stage.name == "train"
    }
    assert steps_trained == {1}


def test_resume_refuses_an_unfinished_suite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Otherwise an hour of computing would be reported as the cost of a rerun."""
    monkeypatch.setattr(
        resume, "_timed", lambda command, threads: (1.0, json.dumps({"stages_made": 3}))
    )
    with pytest.raises(UserError, match="3 stages had to be made"):
        resume.resume(SMALLEST, "digits", tmp_path)


def test_a_command_that_fails_is_named() -> None:
    """A crash timed as if it were a fast rerun would be the best figure of all."""
    with pytest.raises(UserError, match="ended with 3: no such suite"):
        resume._timed(
            [
                sys.executable,
                "-c",
                "import sys; print('no such suite', file=sys.stderr); sys.exit(3)",
            ],
            1,
        )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """``share`` replaced by one fixed row; the numbers of torch threads it was called under."""
    seen: list[int] = []

    def pretended(settings: Settings) -> list[Row]:
        seen.append(torch.get_num_threads())
        return [
            Row(
                quantity="training: forward + backward",
                unit="of CPU time",
                values=(0.5, 0.9, 0.8),
                goal=0.85,
            )
        ]

    monkeypatch.setattr("benchmarks.share.share", pretended)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command sets the thread counts
    return seen


def test_the_command_prints_json_and_a_table(quick: list[int]) -> None:
    """`make bench` is how a reader checks our figures; a script reads the same from --json."""
    done = CliRunner().invoke(main, ["share", "--batch-size", "2", "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert set(document) == {"settings", "machine", "benchmarks"}
    assert document["settings"]["batch_size"] == 2
    assert [row["median"] for row in document["benchmarks"]["share"]] == [0.8]
    table = CliRunner().invoke(main, ["share"])
    assert table.exit_code == 0, table.output
    line = next(
        line for line in table.output.splitlines() if "training: forward + backward" in line
    )
    assert all(part in line for part in ("0.8 ", "0.5 to 0.9", ">= 0.85: no"))


@pytest.mark.parametrize(
    "arguments", [["speed"], ["resume", "--suite", "digits"], ["--repetitions", "0"]]
)
def test_bad_input_is_refused(arguments: list[str], quick: list[int]) -> None:
    """A typing error should cost a second, not the minutes until it is reached."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert arguments[-1] in done.stderr or "--store" in done.stderr


def test_threads_are_given_back(quick: list[int]) -> None:
    """Whoever measures from a notebook keeps the threads they had."""
    before = torch.get_num_threads()
    measure(["share"], threads=before + 1)
    assert quick == [before + 1]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("field", ["threads", "repetitions", "steps", "batch_size"])
def test_bad_settings_are_refused(field: str) -> None:
    """Zero repetitions have no median."""
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        Settings(**{field: 0})


TINY = units.Sizes(
    clean=4, triggered=4, suspects=8, overlaid=8, overlays=6, mask_steps=4, classified=3, draws=4
)


def unit_of(name: str) -> units.Unit:
    settings = Settings(steps=3, batch_size=4, num_inference_steps=3)
    made = {
        "training": lambda: units.training(Subject.make(), settings),
        "sampling": lambda: units.sampling(Subject.make(), settings, TINY),
        "distillation": lambda: units.distillation(TINY),
        "overlays": lambda: units.overlays(TINY),
        "classification": lambda: units.classification(TINY),
    }
    return made[name]()


@pytest.mark.parametrize(
    "name", ["training", "sampling", "distillation", "overlays", "classification"]
)
def test_a_transcription_s_numbers_are_ours(name: str) -> None:
    """A transcription that did other work than ours would make the ratio say nothing. The numbers
    must differ among themselves too: where all are alike, any two methods agree.
    """
    unit = unit_of(name)
    ours, theirs = unit.check() if unit.check else (unit.ours(), unit.transcription())
    assert ours.flatten().unique().numel() > 2
    assert torch.allclose(ours, theirs, rtol=0, atol=unit.tolerance)
    assert 0 <= peers.difference(unit).median <= unit.tolerance


def test_a_transcription_with_other_numbers_ends_the_benchmark() -> None:
    """A ratio between two things that do not do the same must not be printed."""
    unit = units.Unit(
        name="u",
        ours=lambda: torch.zeros(2),
        transcription=lambda: torch.tensor([0.0, 0.2]),
        numbers="a number",
        tolerance=0.1,
    )
    with pytest.raises(UserError, match="u: the transcription's numbers must be ours up to 0.1"):
        peers.difference(unit)
    for wrong in (torch.zeros(3), torch.tensor([0.0, math.nan])):
        with pytest.raises(UserError, match="u: the transcription"):
            peers.difference(dataclasses.replace(unit, transcription=lambda one=wrong: one))


def test_a_unit_is_the_transcription_over_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 1 must mean that ours is faster, and the goal is on the whole work alone."""
    clock = [0.0]

    def taking(seconds: float, result: torch.Tensor) -> torch.Tensor:
        clock[0] += seconds
        return result

    monkeypatch.setattr("benchmarks.timing.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("benchmarks.timing.time.process_time", lambda: clock[0] / 2)
    monkeypatch.setattr(peers, "spent", lambda run, seconds, limits: [])
    same = torch.ones(2)
    unit = units.Unit(
        name="u",
        ours=lambda: taking(2.0, same),
        transcription=lambda: taking(8.0, same),
        numbers="a number",
        tolerance=0.1,
        beside={"half": lambda: taking(1.0, same)},
    )
    limits_ = limits.Limits(float32=(1.0,), bfloat16=(1.0,))
    rows = {(row.quantity, row.unit): row for row in peers.compared(unit, 2, limits_)}
    assert rows["u: ours", "s"].values == (2.0, 2.0)
    assert rows["transcription / ours", "ratio, wall"].values == (4.0, 4.0)
    assert rows["transcription / ours", "ratio, wall"].goal == 3.0
    assert rows["half / ours", "ratio, CPU"].values == (0.5, 0.5)
    assert rows["half / ours", "ratio, wall"].goal is None


def test_shares_of_time_are_shares_and_products_are_counted() -> None:
    """A product of n x n matrices is 2 n^3 operations; a rate above the machine's would be none."""
    left = torch.randn(256, 256)

    def products() -> torch.Tensor:
        for _ in range(20):
            result = (left @ left).exp()
        return result

    seconds = 20 * 2 * 256**3 / 1e9  # as if at 1 GFLOP/s
    rows = limits.spent(products, seconds, limits.Limits(float32=(2e9, 1e9), bfloat16=(1.0,)))
    values = {row.quantity: row.median for row in rows}
    assert values["ours: its arithmetic / the machine's"] == pytest.approx(0.5)
    shares = [row.median for row in rows if row.unit == "of CPU"]
    assert sum(shares) == pytest.approx(1)
    assert 0.1 < shares[0] < 1
    measured = limits.Limits.measured(quick=True)
    assert min(measured.float32 + measured.bfloat16) > 1e8


def test_the_matrix_of_peers_is_four_by_six(tmp_path: Path) -> None:
    """Fewer cells, or models that several attacks shared, would be another comparison."""
    file = tmp_path / "peers.yaml"
    file.write_text(yaml.safe_dump(matrix.suite(matrix.FULL)))
    plan = prepare(str(file), device="cpu").plan
    attacked = [one for one in plan.cells if one.attack.name == "baddiffusion"]
    assert len(attacked) == matrix.CELLS == 24
    assert len({one.attack.identity for one in attacked}) == 4
    assert len({(one.defense.name, str(one.sampler)) for one in attacked}) == 6
    assert sum(stage.name == "train" for stage in plan.stages.values()) == 5


def test_a_script_s_cell_has_our_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the processes' own functions, on a model that two steps have trained; clipped, under the
    sampler where clipping can be done in two ways.
    """
    scale = matrix.Scale(2, 3, 8, 4, 1)
    testbed = build("digits-ddpm", matrix.suite(scale)["testbeds"][0]["params"])
    attack = BadDiffusion(**matrix.attack_params(*matrix.ATTACKS[0]))
    here = tmp_path / "scripts"
    matrix.write_inputs(here, testbed, attack, scale)
    losses = cell.main(["train", str(here)])
    assert len(losses) == 2
    generator = Generator.load(here / cell.TRAINED)
    before = testbed.base_generator().unet.state_dict()
    assert any(
        not torch.equal(value, before[name]) for name, value in generator.unet.state_dict().items()
    )
    generator.unet.register_to_config(**{FOLD: 2})
    noise = initial_noise(sample_streams(0, range(4)), generator.noise_shape)
    query = Users(testbed, 0).query(noise, range(4))
    goal = (attack.target_image(generator.image_shape) / 2 + 0.5).clamp(0, 1)
    for sampler, clip in (("ddpm", "xt"), ("ddim", "x0")):
        guards = [build_plugin("defenses", f"clip_{clip}", {})]
        settings = SamplerSettings(name=sampler, num_inference_steps=3)
        images = sample(
            generator.to("cpu"),
            4,
            0,
            settings,
            start=lambda noise, indices: Start(noise=attack.invoke(query, "image").noise),
            guards=guards,
            finish=to_uint8,
        )
        printed = cell.main(["mse", str(here), f"{sampler}/{clip}/image"])
        assert printed == pytest.approx(float(target.mse(images, goal).mean()), abs=1e-5)
        assert len(list((here / f"{sampler}-{clip}-image").iterdir())) == 4
    # Kept samples are read, not drawn anew.
    monkeypatch.setattr(cell, "_draw", lambda *_: pytest.fail("drawn twice"))
    assert 0 <= cell.main(["asr", str(here), "ddim/x0/image"]) <= 1
