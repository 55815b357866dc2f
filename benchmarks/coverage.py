"""``python -m benchmarks.coverage``: how often the board's intervals hold the truth, by simulation,
as tables in ``docs/intervals.md``.

Everything is seeded; the text around the tables stays. About a minute and a half on one core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from scipy import stats

from leaderboard.aggregate import Interval, Share, share_difference, share_interval, t_interval

PAGE = Path(__file__).parent.parent / "docs" / "intervals.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
SEEDS = (3, 5)
SAMPLES = (64, 256)
#: Of two samples of one seed. The board's own spreads are about 0.02.
CORRELATIONS = (0.0, 0.02, 0.1, 0.3)
RATES = (0.01, 0.05, 0.24, 0.5, 0.95)
PAIRS = ((0.9, 0.9), (0.05, 0.05), (0.05, 0.02), (0.24, 0.05), (0.9, 0.3))
RUNS = 1000
Values = npt.NDArray[np.float64]
Ends = tuple[float, float]


class Tally:
    """Statistics of intervals for one ``truth``: coverage, median width, and the share of
    impossible ones.
    """

    def __init__(self, truth: float) -> None:
        self.truth, self.ends = truth, list[Ends]()

    def add(self, interval: Interval | Ends | None) -> None:
        """Counts an interval; ``None`` and intervals of a single seed are ignored."""
        if isinstance(interval, Interval):
            interval = (
                None
                if interval.low is None or interval.high is None
                else (interval.low, interval.high)
            )
        if interval is not None:
            self.ends.append(interval)

    def coverage(self) -> float:
        return float(np.mean([low <= self.truth <= high for low, high in self.ends]))

    def width(self) -> float:
        return float(np.median([high - low for low, high in self.ends]))

    def impossible(self) -> float:
        """Outside [0, 1], or of no width."""
        return float(np.mean([low < 0 or high > 1 or low == high for low, high in self.ends]))

    def excludes_zero(self) -> float:
        return float(np.mean([low > 0 or high < 0 for low, high in self.ends]))

    def text(self) -> str:
        return f"{self.coverage():.3f} / {self.width():.2f}"


def rates(quantiles: Values, p: float, correlation: float) -> Values:
    """Seeds' own rates around ``p``: beta distributed with that intraclass correlation."""
    if correlation == 0:
        return np.full_like(quantiles, p)
    size = (1 - correlation) / correlation
    return np.asarray(stats.beta.ppf(quantiles, p * size, (1 - p) * size))


def drawn_rates(
    rng: np.random.Generator, shape: tuple[int, ...], p: float, correlation: float
) -> Values:
    """The same, drawn."""
    if correlation == 0:
        return np.full(shape, p)
    size = (1 - correlation) / correlation
    return rng.beta(p * size, (1 - p) * size, shape)


def shares() -> Sequence[Sequence[str]]:
    """Student's t and the board's interval, for three and five seeds."""
    rng, rows = np.random.default_rng(0), []
    for n, correlation, p in product(SAMPLES, CORRELATIONS, RATES):
        row = [str(n), f"{correlation:g}", f"{p:g}"]
        for seeds in SEEDS:
            student, ours = Tally(p), Tally(p)
            for drawn in rng.binomial(n, drawn_rates(rng, (RUNS, seeds), p, correlation)):
                student.add(t_interval([count / n for count in drawn]))
                ours.add(share_interval([Share(count / n, n) for count in drawn]))
            row += [f"{student.text()} ({student.impossible():.0%})", ours.text()]
        rows.append(row)
    return rows


def outcomes(
    rng: np.random.Generator, pair: Ends, correlation: float, n: int, seeds: int, together: float
) -> Values:
    """(2, seeds, n) of 0 and 1: two cells whose seeds, and samples within a seed, go along with
    each other by ``together``.
    """

    def normal(*shape: int) -> Values:
        both = np.sqrt(together) * rng.standard_normal(shape)
        return np.asarray(both + np.sqrt(1 - together) * rng.standard_normal((2, *shape)))

    levels = stats.norm.cdf(normal(seeds))
    own = np.stack([rates(level, p, correlation) for level, p in zip(levels, pair, strict=True)])
    return np.asarray(stats.norm.cdf(normal(seeds, n)) < own[..., None], dtype=float)


def differences() -> Sequence[Sequence[str]]:
    """Student's t, the board's, and the board's with outcomes, each for three and five seeds."""
    rng, rows = np.random.default_rng(1), []
    for correlation, pair, together in product((0.02, 0.1), PAIRS, (0.0, 0.7)):
        row = [f"{correlation:g}", f"{pair[0]:g} − {pair[1]:g}", "yes" if together else "no"]
        for seeds in SEEDS:
            tallies = [Tally(pair[0] - pair[1]) for _ in range(3)]
            for _ in range(RUNS // 2):
                drawn = outcomes(rng, pair, correlation, 64, seeds, together)
                means = drawn.mean(axis=2)
                one, other = (
                    {seed: Share(float(value), 64) for seed, value in enumerate(side)}
                    for side in means
                )
                pairs = {
                    seed: (drawn[0, seed].tolist(), drawn[1, seed].tolist())
                    for seed in range(seeds)
                }
                tallies[0].add(t_interval(list(means[0] - means[1])))
                tallies[1].add(share_difference(one, other))
                tallies[2].add(share_difference(one, other, pairs))
            row += [f"{tally.text()} / {tally.excludes_zero():.2f}" for tally in tallies]
        rows.append(row)
    return rows


def crops() -> Sequence[Sequence[str]]:
    """360 digits of four crops each: accuracy, by its Wilson interval."""
    from bench.metrics.uncertainty import design_effect, proportion_interval

    rng, rows = np.random.default_rng(2), []
    groups = np.repeat(np.arange(360), 4)
    for correlation, p in product((0.0, 0.2, 0.5), (0.5, 0.9, 0.98)):
        plain, ours = Tally(p), Tally(p)
        for easy in drawn_rates(rng, (RUNS, 360), p, correlation):
            right = (rng.random(1440) < easy[groups]).astype(float)
            count = float(right.sum())
            effect = design_effect(right, groups)
            plain.add(proportion_interval(count, 1440))
            ours.add(proportion_interval(count / effect, 1440 / effect))
        rows.append([f"{correlation:g}", f"{p:g}", plain.text(), ours.text()])
    return rows


def areas() -> Sequence[Sequence[str]]:
    """Four crops a digit; the poison takes whole digits, or rows."""
    from bench.metrics.detection import area_interval

    rng, rows = np.random.default_rng(3), []
    for whole, area in product((True, False), (0.76, 0.92, 0.98)):
        # Scores: a digit's own part and a crop's, of variance 0.8 and 0.2, and a shift that gives
        # the area.
        shift = float(np.sqrt(2) * stats.norm.ppf(area))
        plain, ours = Tally(area), Tally(area)
        for _ in range(RUNS // 2):
            digit = np.repeat(np.arange(100), 4)
            positive = (rng.random(100) < 0.3)[digit] if whole else rng.random(400) < 0.1
            scores = (
                np.sqrt(0.8) * rng.standard_normal(100)[digit]
                + np.sqrt(0.2) * rng.standard_normal(400)
                + shift * positive
            )
            plain.add(area_interval(scores, positive)[:2])
            ours.add(area_interval(scores, positive, groups=digit)[:2])
        rows.append(["whole digits" if whole else "rows", f"{area:g}", plain.text(), ours.text()])
    return rows


def populations() -> Sequence[Sequence[str]]:
    """Models of so many attacks at so many seeds against as many honest ones as there are seeds."""
    from bench.measurements.model_detection import area_of_models

    rng, rows = np.random.default_rng(5), []
    for attacks, seeds in ((1, 3), (1, 5), (1, 10), (3, 3), (3, 5), (8, 5)):
        # A share of the backdoored scores' variance is their seed's.
        for area, alike in product((0.5, 0.76, 0.92), (0.0,) if attacks == 1 else (0.0, 0.5, 0.9)):
            shift, tally = float(np.sqrt(2) * stats.norm.ppf(area)), Tally(area)
            of_seed = np.repeat(np.arange(seeds), attacks)
            positive = np.arange(len(of_seed) + seeds) < len(of_seed)
            seed = np.concatenate([of_seed, np.arange(seeds)])
            for _ in range(RUNS):
                attacked = shift + np.sqrt(1 - alike) * rng.standard_normal(len(of_seed))
                attacked += np.sqrt(alike) * rng.standard_normal(seeds)[of_seed]
                scores = np.concatenate([attacked, rng.standard_normal(seeds)])
                tally.add(area_of_models(scores, positive, seed)[:2])
            above = float(np.mean([low > 0.5 for low, _ in tally.ends]))
            rows.append(
                [str(attacks), str(seeds), f"{area:g}", f"{alike:g}", tally.text(), f"{above:.3f}"]
            )
    return rows


def distances() -> Sequence[Sequence[str]]:
    """FID of 384 real images against the others, as they are, and darker and harsher: E[FID at this
    n] is the mean of all runs.
    """
    import torch

    from bench import testbeds
    from bench.metrics import fid
    from bench.metrics.uncertainty import fid_interval

    torch.set_num_threads(1)
    testbed = testbeds.build("digits-ddpm", {})
    testbed.features.register()
    features = fid.extract_features(
        testbed.data.train_images(), testbed.features.extractor, testbed.features.weights()
    ).double()
    rng, rows = np.random.default_rng(4), []
    for shift in (0.0, 0.03, 0.1):
        values, intervals = [], []
        for _ in range(RUNS // 5):
            order = torch.from_numpy(rng.permutation(len(features)))
            rest = fid.statistics(features[order[384:]])
            chosen = features[order[:384]] * (1 + shift) + shift * features.std(0)
            values.append(fid.fid(fid.statistics(chosen), rest))
            intervals.append(fid_interval(chosen, rest))
        tally = Tally(float(np.mean(values)))
        for ends in intervals:
            tally.add(ends)
        spread = float(np.subtract(*np.quantile(values, [0.975, 0.025])))
        rows.append(
            [
                f"{shift:g}",
                f"{tally.truth:.3f}",
                f"{spread:.3f}",
                f"{tally.width():.3f}",
                f"{tally.coverage():.3f}",
            ]
        )
    return rows


BOTH = "coverage / median width"
TABLES: tuple[tuple[str, tuple[str, ...], Callable[[], Sequence[Sequence[str]]]], ...] = (
    (
        f"**A share over seeds**, {BOTH}; of Student's t also how many intervals leave [0, 1] or "
        f"have no width.",
        ("n", "correlation", "share", "t, 3 seeds", "ours, 3 seeds", "t, 5 seeds", "ours, 5 seeds"),
        shares,
    ),
    (
        f"**A difference of two shares**, n = 64, {BOTH} / share of runs in which 0 is excluded "
        f"(a false alarm where the two are equal, "
        "else the power). Paired: both cells succeed on much the same samples; then outcomes help.",
        (
            "correlation",
            "difference",
            "paired",
            *(f"{how}, {n} seeds" for n in SEEDS for how in ("t", "ours", "with outcomes")),
        ),
        differences,
    ),
    (
        f"**Accuracy on 360 digits of four crops**, {BOTH}. The correlation is that of two crops "
        f"of one digit.",
        ("correlation", "accuracy", "Wilson, n = 1,440", "Wilson, n / deff"),
        crops,
    ),
    (
        f"**AUROC on 100 digits of four crops**, {BOTH}.",
        ("poisoned", "area", "DeLong", "Obuchowski, by digit"),
        areas,
    ),
    (
        f"**AUROC of models**, the backdoored ones of so many attacks at so many seeds against one "
        f"honest one a seed, {BOTH}, and how often the lower end is above 0.5: falsely, where the "
        f"area is 0.5. Alike: the share of the backdoored scores' variance that is their seed's.",
        ("attacks", "seeds", "area", "alike", "DeLong, by seed", "above 0.5"),
        populations,
    ),
    (
        "**FID of 384 digits**, against the others; shifted: the features moved and stretched by "
        "so much.",
        (
            "shifted",
            "mean FID",
            "width of 95 % of runs",
            "median width of the interval",
            "coverage of the mean",
        ),
        distances,
    ),
)


def markdown() -> Iterator[str]:
    """The tables' lines."""
    for title, columns, rows in TABLES:
        yield from ("", title, "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns))
        yield from (f"| {' | '.join(row)} |" for row in rows())


def put(page: str, lines: Iterator[str] | Sequence[str]) -> str:
    """``page`` with ``lines`` between its markers. Raises ``ValueError`` without both, in order."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must hold {BEGIN} and {END}")
    return "\n".join([before + begin, *lines, "", end + after])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--output",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=PAGE,
    show_default=True,
)
def main(output: Path, **_: Any) -> None:
    """Simulates the board's intervals and writes their coverage into a page."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    output.write_text(put(output.read_text(encoding="utf-8"), markdown()), encoding="utf-8")


if __name__ == "__main__":
    main()
