"""What poisoned data, classifiers and detectors add to the board: what is drawn, what is said, and
what an empty cell means.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.record import Flag, Metric, PluginSpec, Record, Run, read_runs
from leaderboard import plots
from leaderboard.board import Board, boards
from leaderboard.compositions import GROUPS, Composition, compositions
from leaderboard.detections import Detection, Detector, detectors
from leaderboard.labels import label
from leaderboard.matrix import MetricTable, TableCell, matrices, summary
from leaderboard.ranking import rankings
from leaderboard.report import render
from leaderboard.values import NO_VALUE, Value
from leaderboard.view import board_view, overview

HOSTILE = "strip<script>alert(1)</script>"


def by_testbed(store: Path, name: str) -> Board:
    return next(board for board in boards(read_runs(store)) if board.testbed.name == name)


@pytest.fixture(scope="module")
def classes(class_store: Path) -> Board:
    return by_testbed(class_store, "digits_cfg")


@pytest.fixture(scope="module")
def noise(class_store: Path) -> Board:
    return by_testbed(class_store, "digits_ddpm")


def one_line(
    *cells: tuple[dict[str, float], dict[str, list[float]]],
    attack: str = "badnets",
    **changes: object,
) -> Detection:
    """The only line of a board on which one detector met one attack, one cell a seed."""
    records = [
        Record(
            testbed=PluginSpec(name="t"), attack=PluginSpec(name=attack),
            defense=PluginSpec(name="strip"), seed=seed, status="ok",
            kind="sample detector", protocol="p", series=series,
            probe=PluginSpec(name="badnets") if attack == "none" else None,
            metrics={name: Metric(value=value, n=4000, higher_is_better=True) for name,
            value in metrics.items()},
        )
        for seed, (metrics, series) in enumerate(cells)
    ]  # fmt: skip
    changed = [dataclasses.replace(record, **changes) for record in records]  # type: ignore[arg-type]
    run = Run(
        suite="s", description="", started="2026-01-01", finished=None, counts={},
        records=[(Path("/nowhere"), record) for record in changed],
    )  # fmt: skip
    drawn = "".join(re.findall(r"<svg.*?</svg>", render([run]), flags=re.S)).lower()
    assert "<svg" in drawn and not re.search("nan|inf", drawn)
    ((detector,),) = (detectors(board) for board in boards([run]))
    return detector.lines[0]


def series(where: str = "training set") -> dict[str, list[float]]:
    return {
        f"roc_fpr[{where}]": [0, 0, 1], f"roc_tpr[{where}]": [0, 0.75, 1],
        f"score_edges[{where}]": [0, 1, 2],
        f"score_clean[{where}]": [3, 1], f"score_poisoned[{where}]": [0, 2],
    }  # fmt: skip


AUROC = {
    "auroc[training set]": 0.9,
    "tpr_at_1_fpr[training set]": 0.4,
    "tpr_at_5_fpr[training set]": 0.6,
}


def strip(board: Board) -> Detector:
    return next(detector for detector in detectors(board) if detector.spec.name == "strip")


def test_each_detector_has_a_line_for_every_attack_and_control(classes: Board) -> None:
    """Rows as in the matrix, with AUROC and both TPRs of all that it judges, and one ROC curve for
    each seed and place.
    """
    assert [detector.spec.name for detector in detectors(classes)] == [
        "cognitive_distillation",
        "strip",
    ]
    detector = strip(classes)
    assert [line.row for line in detector.lines] == list(classes.rows) and detector.subjects == (
        "training set",
        "generated",
    )
    attacked = next(line for line in detector.lines if "badnets1" in label(line.row[0]))
    values = attacked.cell.values("auroc[training set]")
    assert attacked.judged[0].auroc[0] == f"{sum(values.values()) / 3:.2f}" and attacked.judged[
        0
    ].auroc[1].startswith("[")
    assert [judged.subject for judged in attacked.judged] == ["training set", "generated"]
    assert all(float(judged.tpr_at_1[0]) <= float(judged.tpr_at_5[0]) for judged in attacked.judged)
    drawn = str(attacked.roc)
    assert (
        drawn.count('class="curve roc w0"') == drawn.count('class="curve roc w1"') == 3
        and "generated, seed 2" in drawn
    )
    assert all(judged.scores and judged.scores[0] == 0 for judged in attacked.judged)
    assert (attacked.control, attacked.verdict) == ("", "")


def test_a_control_says_that_one_half_is_right_and_is_not_coloured(
    classes: Board, noise: Board
) -> None:
    """Orange for "finds nothing" would blame the detector for the absence of poison."""
    detector = strip(classes)
    assert [bool(line.control) for line in detector.lines] == [
        row[0].name == "none" for row in classes.rows
    ]
    assert all("0.5 is right" in line.control for line in detector.lines[:3])
    for name in ("auroc[training set]", "tpr_at_1_fpr[training set]"):
        steps = [[cell.step for cell in cells][-1] for _, cells in table(classes, name).rows]
        assert [step is None for step in steps] == [row[0].name == "none" for row in classes.rows]
    (shift,) = detectors(noise)
    assert shift.subjects == ("noise", "image", "clean")
    # A noise detector never sees the model: without an attack its numbers are the same, and 0.5
    # would be wrong.
    assert "0.5" not in shift.lines[0].control and "never" not in shift.lines[1].control
    assert {cell.step for _, cells in table(noise, "auroc[clean]").rows for cell in cells} == {None}


@pytest.mark.parametrize(
    ("attack", "areas", "verdict"),
    [
        ("badnets", (0.9, 0.92, 0.91), ""),
        ("badnets", (0.1, 0.12, 0.11), "training set: worse than guessing"),
        ("badnets", (0.1, 0.12), ""),
        ("none", (0.49, 0.52, 0.5), ""),
        ("none", (0.61, 0.62, 0.6), "training set: 0.5 lies outside the interval"),
        ("none", (0.41, 0.42, 0.4), "training set: 0.5 lies outside the interval"),
    ],
)
def test_a_verdict_needs_three_seeds_and_an_interval(
    attack: str, areas: tuple[float, ...], verdict: str
) -> None:
    """A detector that reacts to something else than poison, or has its direction wrong, is named;
    two seeds name nobody.
    """
    line = one_line(*(({"auroc[training set]": area}, {}) for area in areas), attack=attack)
    assert line.verdict.startswith(verdict) and bool(line.verdict) is bool(verdict)


def test_one_seed_is_shown_as_one_seed() -> None:
    """No interval, no verdict, a badge that says so; the curve is drawn all the same."""
    line = one_line((AUROC, series()))
    judged = line.judged[0]
    assert [one[:2] for one in (judged.auroc, judged.tpr_at_1)] == [
        ("0.90", "one seed"),
        ("0.40", "one seed"),
    ]
    assert line.flags == ("n < 3 seeds",) and str(line.roc).count("curve roc") == 1


@pytest.mark.parametrize(
    ("spoilt", "curve", "scores"),
    [
        ({}, True, True),
        ({"roc_tpr[training set]": [0.0, 1.0]}, False, True),
        ({"roc_fpr[training set]": []}, False, True),
        ({"roc_fpr[training set]": [0.0, float("nan"), 1.0]}, False, True),
        ({"score_edges[training set]": [0.0, 1.0]}, True, False),
        ({"score_edges[training set]": [0.0, 0.0, 0.0]}, True, False),
        ({"score_edges[training set]": [-1.7e308, 0.0, 1.7e308]}, True, False),
        ({"score_clean[training set]": [0.0, 0.0]}, True, False),
        ({"score_poisoned[training set]": [float("inf"), 1.0]}, True, False),
    ],
)
def test_series_that_are_missing_or_broken_are_left_out(
    spoilt: dict[str, list[float]], curve: bool, scores: bool
) -> None:
    """A record from an older version or from elsewhere costs its picture, never the board; the next
    seed's histogram steps in.
    """
    line = one_line((AUROC, series() | spoilt))
    assert (line.roc is not None, line.judged[0].scores is not None) == (curve, scores)
    line = one_line((AUROC, series() | spoilt), (AUROC, series()))
    assert line.judged[0].scores is not None and line.judged[0].scores[0] == (0 if scores else 1)
    assert str(line.roc).count("curve roc") == 1 + curve
    bare = one_line((AUROC, {}))
    assert bare.roc is None and bare.judged[0].scores is None


def test_scores_are_drawn_as_shares_of_their_group() -> None:
    """Four clean and two poisoned: 3/4, 1/4 against 0, 1, on one scale, whatever the counts."""
    drawn = str(plots.histogram([0, 1, 2], [3, 1], [0, 2], "score", "title"))
    frame = plots.Frame(width=300, height=150, x_range=(0, 2), y_range=(0, 1.08))
    clean, poisoned = re.findall(r'class="bins \w+" d="([^"]*)"', drawn)
    high, low = frame.y(0.75), frame.y(0.25)
    assert clean == f"M52,106v{high - 106:g}h117v{low - high:g}h117v{106 - low:g}"
    assert poisoned == "M52,106h117v-85.2h117v85.2"


def test_a_roc_runs_from_corner_to_corner_over_the_line_of_chance() -> None:
    """The unit square: (0, 0) at the bottom left, (1, 1) at the top right."""
    drawn = str(plots.roc([plots.Roc('a"b', 6, [0, 0.5, 1], [0, 1, 1])], "title"))
    assert '<path class="level" d="M52.0,248.0L286.0,14.0"/>' in drawn
    assert '<title>a&#34;b</title><path class="curve roc w1" d="M52,248l117-234h117"/></g>' in drawn
    stairs = str(plots.roc([plots.Roc("a", 6, [0, 0, 0.5, 0.5, 1], [0, 0.5, 0.5, 1, 1])], "title"))
    assert 'd="M52,248v-117h117v-117h117"' in stairs
    step = plots.Roc("a", 6, [0, 0, 0, 0.1, 0.6, 0.6], [0, 0.3, 0.5, 0.5, 0.5, 0.5])
    assert 'd="M52,248v-117h140.4"' in str(plots.roc([step], "title"))
    turned = plots.Roc("a", 6, [0, 0, 0, 1], [0, 1, 0.5, 0.5])
    assert 'd="M52,248v-234v117h234"' in str(plots.roc([turned], "title"))


def test_a_bar_is_cut_in_proportion_and_named_where_there_is_room() -> None:
    """Lengths are shares of 240; a part below a tenth bears no name, but the text beside the bar
    does.
    """
    drawn = str(plots.stacked([("G1", 0.1), ("G2", 0.5), ("G3", 0.0), ("G4", 0.4)], 0.25, "a<b"))
    assert re.findall(r'x="([\d.]+)" y="3" width="([\d.]+)"', drawn) == [
        ("0.00", "24.00"), ("24.00", "120.00"), ("144.00", "0.00"), ("144.00", "96.00"),
    ]  # fmt: skip
    assert (
        re.findall(r">(G\d)<", drawn) == ["G2", "G4"]
        and '<path class="tick" d="M60.00,0V26"/>' in drawn
    )
    assert 'aria-label="a&lt;b"' in drawn and "tick" not in str(
        plots.stacked([("G1", 1.0)], None, "")
    )


def numbers(line: Composition) -> dict[str, Value]:
    """By metric."""
    return {metric: one for metric, _, one in line.numbers}


def test_compositions_show_every_row_and_the_defenses_that_draw_samples(
    classes: Board, noise: Board
) -> None:
    """G1 to G4 as text, their sum, p_t as a tick where there is poison, and no amplification
    without any.
    """
    by_row = {
        label(row[0]) if row[1] is None else f"none {label(row[1])}": lines
        for row, lines in compositions(classes)
    }
    assert len(by_row) == len(classes.rows) == 6
    assert {tuple(line.cell.defense.name for line in lines) for lines in by_row.values()} == {
        ("none", "clip_x0")
    }
    undefended, clipped = by_row["badnets(pattern=badnets1, poison_rate=0.1)"]
    plain, treated = numbers(undefended), numbers(clipped)
    parts = [float(plain[name].text) for name in GROUPS]
    assert abs(sum(parts) - 1) <= 0.02
    assert float(plain["asr[prompt]"].text) == pytest.approx(sum(parts[:2]), abs=0.011)
    assert {one.n for one in plain.values()} == {"3 × 256", "3 × 288"}
    assert plain["p_t"] == treated["p_t"] == Value("0.50", n="3 × 288")
    assert 'class="tick"' in str(undefended.bar)
    assert float(plain["amplification"].text) > 1 > float(treated["amplification"].text)
    # A share over a rate that is known: its interval is the share's, below by 0 and never of no
    # width.
    share, over = (summary(undefended.cell, name) for name in ("asr[prompt]", "amplification"))
    assert share and over and over.low is not None and share.low is not None
    assert over.low == pytest.approx(share.low / 0.5, abs=0.01) and over.low < over.mean
    honest = by_row["none badnets(pattern=badnets1, poison_rate=0.1)"][0]
    assert numbers(honest)["p_t"].text == "0.00" and 'class="tick"' not in str(honest.bar)
    assert numbers(honest)["amplification"] == NO_VALUE
    assert honest.flags == ("within the trigger classifier's false alarms",)
    assert compositions(noise) == ()


def test_an_attack_without_a_trigger_has_the_other_two_groups(classes: Board) -> None:
    """Who only relabels stamps nothing: G3 is the mismatch, G4 the rest, and G1 is absent, not
    0.
    """
    line = next(lines[0] for row, lines in compositions(classes) if row[0].name == "relabel_only")
    mismatch = line.cell.values("mismatch")
    values = numbers(line)
    assert line.triggerless
    assert {values[name] for name in ("g1", "g2", "asr[prompt]")} == {NO_VALUE}
    assert values["g3"].text == f"{sum(mismatch.values()) / 3:.2f}"
    assert values["g3"].n == values["g4"].n == "3 × 256"
    assert float(values["g3"].text) + float(values["g4"].text) == pytest.approx(1)
    low, high = (float(end) for end in values["g4"].interval.strip("[]").split(", "))
    assert low <= float(values["g4"].text) <= high


def table(board: Board, metric: str) -> MetricTable:
    return next(table for table in matrices(board) if table.words.name == metric)


def table_cell(board: Board, metric: str, row: str, defense: str) -> TableCell:
    cells = next(
        cells
        for head, cells in table(board, metric).rows
        if row in label(head[0]) and head[1] is None
    )
    return next(one for one in cells if one.cell and one.cell.defense.name == defense)


@pytest.mark.parametrize(
    ("metric", "row", "defense", "note"),
    [
        ("asr[prompt]", "badnets1", "strip", "a detector changes no sample"),
        ("g1", "badnets1", "diffusion_classifier", "a classifier defense draws no image"),
        (
            "fid[digits-cnn]",
            "badnets1",
            "train_on_generated",
            "a data defense leaves the generator as it is",
        ),
        ("ta", "badnets1", "clip_x0", "a sampler defense changes no classifier"),
        ("classifier_asr", "badnets1", "strip", "a detector changes no classifier"),
        ("classifier_asr", "relabel_only", "train_on_generated", "this attack has no trigger"),
        ("amplification", "relabel_only", "none", "this attack has no trigger"),
        ("auroc[training set]", "badnets1", "none", "only a detector has this number"),
        ("auroc[generated]", "relabel_only", "strip", "this attack has no trigger"),
    ],
)
def test_an_empty_cell_says_what_its_family_cannot_have(
    classes: Board, metric: str, row: str, defense: str, note: str
) -> None:
    """ "Not measured" would make a reader look for a failure."""
    assert (
        table_cell(classes, metric, row, defense).text,
        table_cell(classes, metric, row, defense).note,
    ) == ("–", note)


def test_an_empty_cell_of_a_control_says_that_nothing_is_poisoned(classes: Board) -> None:
    """p_t is 0 there, and no image carries a trigger."""
    for metric, column, note in (
        ("amplification", 0, "nothing is poisoned: p_t is 0"),
        ("auroc[generated]", -1, "no poisoned image among those judged"),
    ):
        row, cells = table(classes, metric).rows[0]
        assert row[0].name == "none" and cells[column].note == note


def test_a_flag_about_generated_images_says_nothing_about_the_training_set() -> None:
    """Constant scores on one kind of image leave the other's AUROC as good as it was; TPR shares
    the AUROC's doubts.
    """
    flags = (
        Flag("constant-scores", "auroc[generated]", "constant scores"),
        Flag("within-false-alarms", "asr", "within the trigger classifier's false alarms"),
        Flag("slow", "", "slow: took long"),
    )
    metrics = {
        name: 0.5
        for kind in ("auroc", "tpr_at_1_fpr")
        for name in (f"{kind}[training set]", f"{kind}[generated]")
    }
    line = one_line(*((metrics, {}) for _ in range(3)), flags=flags)
    assert line.flags[-1] == "slow"
    assert [judged.problems for judged in line.judged] == [(), ("constant scores",)]


def test_the_share_that_carries_the_trigger_ranks_the_defenses(
    classes: Board, noise: Board
) -> None:
    """What is asked for is the adversary's only way in; who draws no image, or has no trigger, is
    not ranked.
    """
    stopping = [
        ranking for ranking in rankings(classes) if ranking.end_point.title == "Stops the backdoor"
    ]
    names_of = [[label(attack)[:24] for attack in ranking.attacks] for ranking in stopping]
    assert (
        names_of[1:] == [["badnets(pattern=badnets1"], ["badnets(pattern=badnets2"]]
        and stopping[0].several()
    )
    # clip_x0 stops most of it and costs an eighth of FID: shown apart, and no defense is alone in
    # the ranking.
    assert [line.cell.defense.name for line in stopping[1].lines] == ["none"]
    assert [(line.cell.defense.name, line.holds, line.rank) for line in stopping[1].outside] == [
        ("clip_x0", True, "")
    ]
    assert stopping[1].lines[0].worst.mean == pytest.approx(
        sum(stopping[1].lines[0].cell.values("asr[prompt]").values()) / 3
    )
    safe = [
        ranking for ranking in rankings(classes) if ranking.end_point.title == "Classifies safely"
    ]
    ranked = {p.cell.defense.name for ranking in safe for p in ranking.lines + ranking.outside}
    assert ranked == {"none", "train_on_generated", "diffusion_classifier"}
    assert rankings(noise) == [] and (board_view(classes).prompted, board_view(noise).prompted) == (
        True,
        False,
    )


def test_controls_show_the_poison_and_the_judges_own_error(
    classes: Board, class_store: Path
) -> None:
    """What no defense can change stands there and not in the switch; detectors are counted apart
    from defenses.
    """
    columns = [words.name for words in board_view(classes).controls.columns]
    assert columns == [
        "asr[prompt]", "mismatch", "p_t", "poison_rate[all "
                                          "rows]", "ta", "classifier_asr",
                                          "trigger_classifier_false_alarms",
    ]  # fmt: skip
    switch = {table.words.name for table in matrices(classes)}
    assert (
        not switch & {"p_t", "poison_rate[all rows]", "trigger_classifier_false_alarms"}
        and "amplification" in switch
    )
    counted = overview(read_runs(class_store)[0])
    assert counted.detectors == (
        "cognitive_distillation",
        "noise_shift(test=z)",
        "strip(overlays=100)",
    )
    assert counted.defenses == ("clip_x0", "diffusion_classifier", "train_on_generated")


class Page(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_a_detector_whose_name_is_a_script_stays_text(
    tmp_path: Path, make_class_store: Callable[..., Path]
) -> None:
    """In the tables, the summaries and the titles of its drawings; a place nobody knows is shown
    under its own name.
    """

    def spoil(record: Record) -> Record:
        if record.defense.name != "strip":
            return record
        where = "<script>alert(2)</script>"
        return dataclasses.replace(
            record,
            defense=PluginSpec(name="strip", label=HOSTILE),
            metrics=record.metrics | {f"auroc[{where}]": Metric(value=0.7, higher_is_better=True)},
            series=record.series | series(where),
            flags=(Flag("odd", "auroc[training set]", where),),
        )

    text = render(read_runs(make_class_store(tmp_path / "store", spoil, seeds=1)))
    page = Page(text)
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
    titles = [
        str(attributes["aria-label"])
        for tag, attributes in page.tags
        if tag == "svg" and "aria-label" in attributes
    ]
    assert any(title.startswith(f"ROC of {HOSTILE}") for title in titles)
    assert any(title.startswith(f"Scores of {HOSTILE}") and "alert(2)" in title for title in titles)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {
        str(attributes["href"])[1:]
        for tag, attributes in page.tags
        if tag == "a" and str(attributes["href"])[:2] not in ("#", "le")
    }
    assert {link for link in links if link.startswith(("cell-", "board-"))} <= set(ids)


def test_the_page_has_both_sections_and_does_not_depend_on_the_order_of_reading(
    class_store: Path, store: Path
) -> None:
    """Byte for byte the same from shuffled records; a board without classes or detectors has
    neither heading.
    """
    (run,) = read_runs(class_store)
    shuffled = list(run.records)
    random.Random(2).shuffle(shuffled)
    text = render([run])
    assert render([dataclasses.replace(run, records=shuffled)]) == text
    headings = ("Detectors: who finds the poison?", "What the adversary’s class looks like")
    assert [text.count(heading) for heading in headings] == [2, 1]
    plain = render(read_runs(store))
    assert not any(heading in plain for heading in headings) and "trigger classifier" not in plain
