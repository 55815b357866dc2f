"""docs/traps.md against what it says: every figure in bold is made again here, from a switch of a
plugin, from the published pages, or from its definition.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from attacks.trojdiff import TrojDiff
from attacks.villandiffusion import VillanDiffusion
from bench import testbeds
from bench.artwork import patterns, targets, triggers
from bench.checking import planted
from bench.contracts import tiny
from bench.contracts.access import Access
from bench.contracts.data import Recovered
from bench.diffusion.generator import Generator
from bench.diffusion.schedule import Schedule
from bench.metrics.detection import auroc
from defenses.anp import PAPERS_REACH
from defenses.diff_cleanse import DiffCleanse, hidden_channels
from defenses.elijah import OBJECTIVES, ElijahInversion
from defenses.terd import SMALLEST_SCALE
from detectors.fct import FCT
from detectors.strip import STRIP
from detectors.terd import divergence

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEXT = (DOCS / "traps.md").read_text()
SECTIONS = {
    title: text for title, text in re.findall(r"^### (.+)\n((?:(?!^##).*\n)+)", TEXT, re.MULTILINE)
}
FIGURE = re.compile(r"\*\*(-?[\d.,]*\d)\*\*")


def check(title: str, *values: float, by: float | None = None) -> None:
    """The figures of a section, in order, are ``values`` as far as they are printed: half a digit
    and a little, or ``by``.
    """
    printed = FIGURE.findall(SECTIONS[title])
    assert len(printed) == len(values), (title, printed, values)
    for text, value in zip(printed, values, strict=True):
        digits = len(text.partition(".")[2])
        assert float(text) == pytest.approx(value, abs=by or 0.51 * 10**-digits), (title, values)


def row(page: str, start: str, column: str) -> float:
    """A number of a published page: of the first row that begins so, under the nearest head."""
    lines = (DOCS / page).read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(f"| {start}"))
    head = next(lines[number] for number in range(at, 0, -1) if lines[number].startswith("| ---"))
    top = lines[lines.index(head, max(0, at - 20)) - 1]
    cells = dict(zip(top.split(" | "), lines[at].split(" | "), strict=False))
    return float(cells[column].split()[0])


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """The digits' training images in [0, 1]."""
    images = testbeds.load("digits-ddpm").data.train_images()
    assert images is not None
    return images.float() / 255


# --- sampling and measuring -----------------------------------------------------------------------


def test_clipping_by_default_and_two_operations() -> None:
    attacked = (
        "baddiffusion(trigger=grey\\_box, target=hat, poisoned\\_image=trigger\\_only), digits"
    )
    rates = [row("science.md", start, "ASR[noise]") for start in (attacked, "… with `clip_x0`")]
    check("Clipping is on unless somebody switches it off", *rates)
    starts = (attacked, "… with `clip_x0`", "… with `clip_xt`")
    check("Two operations are called clipping", *(row("science.md", one, "FID") for one in starts))


def test_samplers_are_not_one() -> None:
    starts = [
        "`ddpm`, 50 steps",
        "`ddim`, 50 steps",
        "`dpm_solver`, 20 steps",
        "`dpm_solver++`, 20 steps",
    ]
    values = [row("science.md", start, "FID") for start in starts]
    check("A pipeline that brings its own sampler", *values)
    assert len(set(values)) == 4


def test_a_fixed_threshold_is_passed_by_clean_images(digits: Tensor) -> None:
    trigger = triggers.trigger("grey_box", tiny.SHAPE)
    passing = []
    for name in ("corner", "hat", "cat"):
        target = targets.target(name, tiny.SHAPE, trigger) / 2 + 0.5
        errors = (digits - target).square().mean((1, 2, 3))
        passing.append(float((errors < 0.1).float().mean()))
    check("Success is an error below 0.1", *passing)


def test_a_perfect_recovery_in_another_range(digits: Tensor) -> None:
    error = float(((2 * digits - 1) - digits).square().mean())
    check("Inpainting: original and result in two ranges", error)


def test_the_line_that_is_cropped() -> None:
    widths = [side // 2 // 10 + side // 2 // 20 for side in (256, 32, 16)]
    check("Inpainting: a line of one pixel, or none", *widths)


# --- attacks --------------------------------------------------------------------------------------


def test_the_mean_of_trojdiff() -> None:
    attack = TrojDiff()
    picture = patterns.picture(attack.pattern, tiny.SHAPE, None, 1.0, None)
    _, mean = attack.bias(tiny.SHAPE)
    ratio = float((picture * mean).sum() / mean.square().sum())
    torch.testing.assert_close(ratio * mean, picture)
    check("TrojDiff's mean without its factor", ratio)


def test_the_correction_of_villandiffusion() -> None:
    schedule = Schedule.linear()

    def at_100(**settings: float) -> tuple[float, float]:
        exact = VillanDiffusion(**settings)  # type: ignore[arg-type]
        both = (replace(exact, correction="paper"), exact)
        first, second = (one.shift(schedule).correction[100] for one in both)
        return float(first), float(second)

    noise = at_100(psi=0.0, zeta=1.0)
    short, long = at_100(psi=1.0, zeta=0.0), at_100(psi=1.0, zeta=0.0, stride=50)
    title = "VillanDiffusion's correction away from its usual settings"
    check(title, noise[0] / noise[1], short[0], long[1])
    assert short[0] == pytest.approx(short[1], rel=0.01)


def test_weight_decay_takes_from_rows_without_a_gradient() -> None:
    table = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([table], lr=4 * 5e-4)
    for _ in range(2000):
        table.grad = torch.zeros(3)
        optimizer.step()
    check(
        "A trigger word's training shrinks all other words",
        100 * (1 - float(table.detach().mean())),
    )


def test_a_schedule_of_200_does_not_fire_in_50() -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 200, gamma=0.5)
    for _ in range(50):
        optimizer.step()
        schedule.step()
    check("A schedule in epochs that never fires", optimizer.param_groups[0]["lr"])


# --- inversions and repairs -----------------------------------------------------------------------


class Answers(Generator):
    """By half of a trigger, whatever it is asked."""

    def predict_noise(self, x: Tensor, timesteps: Tensor, condition: object = None) -> Tensor:
        return 0 * x + 0.5 * planted.trigger()


def test_elijah_with_the_wrong_family() -> None:
    model = tiny.generator()
    scales = []
    for family in ("baddiffusion", "villandiffusion_ode"):
        own = Access(
            rng=np.random.default_rng(0),
            generator=Answers(model.unet, model.scheduler_config),
            draw=lambda query: query.noise.clamp(-1, 1),
        )
        inversion = ElijahInversion(family=family, batch_size=2, steps=120, learning_rate=0.03)  # type: ignore[arg-type]
        trigger = inversion.invert(own).triggers[0][0]
        scales.append(
            float((trigger * planted.trigger()).mean()) / float(planted.trigger().square().mean())
        )
    assert set(OBJECTIVES) > {"villandiffusion_ode"}
    check("Elijah's objective contains the attack", *scales)


def test_a_sum_beside_means() -> None:
    values = [math.prod(shape) for shape in ((3, 32, 32), tiny.SHAPE)]
    ratios = [float(torch.ones(2, n).sum(1).mean() / torch.ones(2, n).mean()) for n in values]
    check("One term summed, two averaged", *ratios)


def test_terds_score_without_a_floor() -> None:
    floor = float(divergence(torch.zeros(3), SMALLEST_SCALE).mean())
    check("TERD's scale starts where its score is infinite", floor)
    assert torch.log(torch.zeros(1)).item() == -math.inf
    with pytest.raises(ValueError, match="math domain error|expected a positive"):
        divergence(torch.zeros(3), 0.0)


def test_terds_scale_as_a_variance() -> None:
    """The mean of ln N(x; 0, v) - ln N(x; 0, 1), given that of x squared."""
    gamma = 0.6

    def ratio(variance: float, square: float) -> float:
        return -math.log(variance) / 2 - square / (2 * variance) + square / 2

    right, released = gamma**2, gamma
    values = [ratio(v, square) for v in (right, released) for square in (gamma**2, 1)]
    check("A scale that is used as a variance", *values)
    assert values[2] - values[3] < (values[0] - values[1]) / 2


def test_a_pattern_that_is_another_tensor_than_the_optimisers() -> None:
    """The order of the released lines: optimise, rebind, and read what was bound."""
    held = torch.randn(tiny.SHAPE, generator=torch.Generator().manual_seed(0), requires_grad=True)
    optimizer = torch.optim.Adam([held], lr=0.1)
    first = held.detach().clone()
    pattern = held * 2 - 1
    before = pattern.detach().clone()
    for _ in range(100):
        optimizer.zero_grad()
        (-pattern).sum().backward(retain_graph=True)
        optimizer.step()
    moved = float((pattern.detach() - before).abs().max())
    assert float((held.detach() - first).abs().min()) > 5
    check("A pattern that does not move", moved)


def test_importances_that_are_added() -> None:
    own = Access(
        rng=np.random.default_rng(3),
        generator=planted.generator("planted", False),
        clean_data=planted.discs(64, 5),
        recovered=Recovered(labels=["true"], triggers=[planted.trigger()[None]]),
    )
    blocks = hidden_channels(own.generator.unet)
    defense = DiffCleanse(draws=4, batch_size=32)
    triggered, clean = defense._importances(own, {"images": own.clean_images}, blocks)
    count = common = 0
    for one, other in zip(triggered, clean, strict=True):
        gone = len(one) - int(0.9 * len(one))
        by_difference, by_sum = (
            set(values.argsort(descending=True)[:gone].tolist())
            for values in (one - other, one + other)
        )
        count, common = count + gone, common + len(by_difference & by_sum)
    assert count == 26 and common < count / 2
    check("A difference that is a sum", count, common, by=3)


def test_how_far_adam_gets() -> None:
    check("Budgets that cannot bind", PAPERS_REACH)
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=1e-4)
    for _ in range(5 * 391):
        weight.grad = torch.ones(1)
        optimizer.step()
    assert float(weight.detach()) == pytest.approx(-PAPERS_REACH, rel=1e-3)


# --- detectors ------------------------------------------------------------------------------------


def judged(detector: STRIP | FCT) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the tiny poisoned set, and which rows are poisoned."""
    rows = planted.suspected()
    own = Access(
        rng=np.random.default_rng(0),
        classifier=planted.classifier(),
        train_set=replace(rows, poisoned=torch.zeros_like(rows.poisoned)),
    )
    return detector.score(rows.images, own).numpy(), rows.poisoned.numpy()


def test_strips_area_of_raw_entropies() -> None:
    scores, poisoned = judged(STRIP(overlays=50))
    area, turned = auroc(scores, poisoned), auroc(-scores, poisoned)
    check("STRIP's area, the wrong way round", area, turned, by=0.02)
    assert area + turned == pytest.approx(1)


def test_the_entropy_of_a_certain_answer() -> None:
    logits = torch.tensor([[200.0, 0.0]])
    certain = logits.softmax(1)
    assert (certain * certain.log()).sum().isnan()
    entropy = -(certain * logits.log_softmax(1)).sum()
    check("Entropy of a certain answer", float(entropy))


def test_a_mean_over_the_batch_before_adam() -> None:
    shorter = []
    for batch in (1, 128, 1024):
        pixel = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = torch.optim.Adam([pixel], lr=0.1, betas=(0.1, 0.1))
        pixel.grad = torch.full((1,), 1e-4 / batch, dtype=torch.float64)
        optimizer.step()
        shorter.append(100 * (1 - abs(float(pixel.detach())) / 0.1))
    check("A score that depends on who else is judged", *shorter)


def test_fct_by_its_loss() -> None:
    areas = [
        auroc(*judged(FCT(loss=loss)))  # type: ignore[arg-type]
        for loss in ("inter_class_centroids", "intra_class", "none")
    ]
    check('"Intra" between classes', *areas, by=0.04)


def test_principal_components_are_uncorrelated() -> None:
    maps = np.random.default_rng(0).random((76, 256))
    centred = maps - maps.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:20]
    covariance = np.cov((centred @ directions.T).T)
    beside = covariance - np.diag(np.diag(covariance))
    assert np.abs(beside).max() < 1e-14 and np.diag(covariance).min() > 0.1
    check("A matrix logarithm of a diagonal matrix", float(np.abs(beside).max()))


def test_where_seven_steps_end() -> None:
    """Eight tokens, the last one's own rate -10; similarities are uniform in [0, 1]."""
    similar = np.random.default_rng(0).random((8, 8))
    flows = similar.T.copy()
    np.fill_diagonal(flows, 0)
    flows -= np.diag(similar.sum(0) - np.diag(similar))
    own = -np.diag([1.0] * 7 + [10.0])

    def seventh(tolerance: float) -> float:
        solved = solve_ivp(
            lambda time, x: (own + flows) @ x, (0, 49), np.linspace(1, 2, 8), rtol=tolerance
        )
        return float(solved.t[7])

    check("Seven steps of an adaptive solver", seventh(1e-3), seventh(1e-6), by=0.03)


def test_three_quarters_of_one_token() -> None:
    check("A mean of nothing", int(0.75 * 1), int(0.75 * 2))
    assert torch.empty(0).mean().isnan()


def test_a_log_normal_density() -> None:
    """exp(-d^2 / (2 std^2)), and exp(-d^2 std^2 / 2), whose deviation is 1 / std."""
    deviation, distance = 1.2, math.log(3) + 1.2
    right = math.exp(-(distance**2) / (2 * deviation**2))
    released = math.exp(-(distance**2) * deviation**2 / 2)
    check("A density with its variance upside down", 1 / deviation, right / released)


def test_every_figure_is_made_again() -> None:
    """A trap whose number nobody makes would go stale; one without a number belongs in the list of
    those that were not measured.
    """
    source = Path(__file__).read_text()
    assert [title for title in SECTIONS if title not in source] == []
    assert [title for title, text in SECTIONS.items() if not FIGURE.search(text)] == []
    assert len(SECTIONS) > 20 and not FIGURE.search(TEXT.partition("## Not measured here")[2])


def test_a_figure_that_is_wrong_would_be_noticed() -> None:
    """Guards :func:`check`: it must look at each figure, and at their number."""
    with pytest.raises(AssertionError):
        check("Inpainting: a line of one pixel, or none", 18, 1, 1)
    with pytest.raises(AssertionError):
        check("Inpainting: a line of one pixel, or none", 18, 1)
