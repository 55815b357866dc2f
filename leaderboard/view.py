"""What on the board is neither matrix, ranking nor panel: overview, plots, detectors, controls,
failures, provenance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from markupsafe import Markup

from bench.record import Record, Run
from bench.words import IMAGE_QUALITY
from leaderboard import names, plots
from leaderboard.absent import Absence, by_reason, everywhere
from leaderboard.board import (
    POPULATION,
    Board,
    Cell,
    Entry,
    Row,
    by_weight,
    papers_of,
    same_sampler,
)
from leaderboard.compositions import Composition, compositions
from leaderboard.contenders import RATES, fid_name, invocations, other_goals
from leaderboard.detections import Detection, Detector, detectors
from leaderboard.detections import rows as detected_rows
from leaderboard.finders import FinderRanking, detector_rankings, inversion_rankings
from leaderboard.flat import flatten
from leaderboard.inversions import RECOVERIES, InversionLine, Recovery, inversion_lines
from leaderboard.labels import label
from leaderboard.matrix import MetricTable, matrices, metric_names, steady_value, summary
from leaderboard.populations import ModelDetector, model_detectors
from leaderboard.ranking import Ranking, rankings
from leaderboard.sound import named
from leaderboard.values import Value

#: Codes of flags on parameters that were chosen by looking at this result, or may have been.
TUNED = ("tuned", "tuning-undeclared")


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One run in plain words. ``counts``: cells (one attack, defense and seed each) by status,
    anchors apart; ``unknown_commits``: records that say nothing of one; ``tuned``: whether some
    were measured where parameters were chosen; ``problems``: what of the run could not be read.
    """

    run: Run
    testbeds: tuple[str, ...]
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    detectors: tuple[str, ...]
    samplers: tuple[str, ...]
    seeds: tuple[int, ...]
    counts: Mapping[str, int]
    versions: tuple[str, ...]
    commits: tuple[str, ...]
    unknown_commits: int
    dirty: bool
    tuned: bool
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ControlTable:
    """Rows of ``(name, values)`` under ``columns``."""

    columns: tuple[names.Words, ...]
    rows: tuple[tuple[Cell, tuple[Value, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class BoardView:
    """One board, ready for the template. ``prompted``: the adversary's only way in is what a user
    asks for; ``classes``: he calls for a class; ``sets``: for a picture like those of a set;
    ``pictures``: he aims at an image; ``detected``: the rows in which a detector has a line;
    ``absent``: what no cell has, for the same reason.
    """

    board: Board
    matrices: tuple[MetricTable, ...]
    groups: tuple[str, ...]
    rankings: tuple[tuple[Ranking, Markup | None], ...]
    legend: tuple[tuple[str, Markup], ...]
    fid: str
    prompted: bool
    classes: bool
    sets: bool
    pictures: bool
    compositions: tuple[tuple[Row, tuple[Composition, ...]], ...]
    detectors: tuple[Detector, ...]
    detected: tuple[Row, ...]
    model_detectors: tuple[ModelDetector, ...]
    inversions: tuple[InversionLine, ...]
    detections: tuple[FinderRanking, ...]
    recoveries: tuple[FinderRanking, ...]
    controls: ControlTable
    anchors: ControlTable
    absent: frozenset[Absence]

    @cached_property
    def detection_of(self) -> Mapping[str, Detection]:
        """By the cell's id."""
        return {line.cell.id: line for detector in self.detectors for line in detector.lines}

    @cached_property
    def inversions_of(self) -> Mapping[str, list[InversionLine]]:
        """By the cell's id."""
        by_cell: dict[str, list[InversionLine]] = {}
        for line in self.inversions:
            by_cell.setdefault(line.cell.id, []).append(line)
        return by_cell

    def recovered(self) -> list[tuple[Recovery, list[FinderRanking], list[InversionLine]]]:
        """Of each of what inversions recovered, its rankings and lines."""
        every = [
            (
                recovery,
                [ranking for ranking in self.recoveries if ranking.recovery == recovery],
                [line for line in self.inversions if line.recovery == recovery],
            )
            for recovery in RECOVERIES
        ]
        return [one for one in every if one[2]]

    @cached_property
    def composition_of(self) -> Mapping[str, Composition]:
        """By the cell's id."""
        return {line.cell.id: line for _, lines in self.compositions for line in lines}

    def absent_by_reason(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What no cell measured, by reason."""
        return by_reason(self.absent)

    def ranked_groups(self) -> list[tuple[str, list[tuple[Ranking, Markup | None]]]]:
        """The rankings in which some defense takes part, by end point."""
        contested = [pair for pair in self.rankings if pair[0].contested()]
        return [
            (title, list(group))
            for title, group in groupby(contested, key=lambda pair: pair[0].end_point.title)
        ]

    @property
    def first_metric(self) -> str:
        """What the matrix shows first: the adversary's success."""
        metrics = [table.words.name for table in self.matrices]
        return next(
            (
                name
                for family in RATES
                for name in metrics
                if name.startswith(f"{family}[") and names.split(name)[1] != "clean"
            ),
            "",
        )


def overview(run: Run) -> Overview:
    """Raises nothing: a run without records has empty lists."""
    records = [named(record) for _, record in run.records]
    cells = [record for record in records if record.kind not in ("anchor", POPULATION)]
    sources = [dict(flatten(record.provenance)) for record in records]
    treatments = {
        (label(record.defense), record.kind.endswith("detector"))
        for record in cells
        if record.defense.name != "none"
    }
    commits = [source.get("git.commit", "null") for source in sources]
    measured = [
        commit for commit, record in zip(commits, records, strict=True) if record.status == "ok"
    ]
    return Overview(
        run=run,
        testbeds=tuple(sorted({label(record.testbed) for record in records})),
        attacks=tuple(
            sorted({label(record.attack) for record in cells if record.attack.name != "none"})
        ),
        defenses=tuple(sorted(name for name, detects in treatments if not detects)),
        detectors=tuple(sorted(name for name, detects in treatments if detects)),
        samplers=_samplers(cells),
        seeds=tuple(sorted({record.seed for record in cells})),
        counts={
            status: sum(record.status == status for record in cells)
            for status in ("ok", "failed", "skipped")
        }
        | {status: run.counts.get(status, 0) for status in ("pending", "missing")},
        versions=tuple(
            sorted({source["castlewalls"] for source in sources if "castlewalls" in source})
        ),
        commits=tuple(sorted(set(commits) - {"null"})),
        unknown_commits=measured.count("null"),
        dirty=any(source.get("git.dirty") == "true" for source in sources),
        tuned=any(flag.code in TUNED for record in records for flag in record.flags),
        problems=tuple(getattr(run, "problems", ())),
    )


def _samplers(cells: Sequence[Record]) -> tuple[str, ...]:
    """What a run's listed samplers are called, the testbed's own last; nothing if it lists none."""
    listed = sorted({label(record.sampler) for record in cells if record.sampler})
    own = listed and not all(record.sampler for record in cells)
    return (*listed, *(["the testbed’s own"] if own else []))


def board_view(board: Board) -> BoardView:
    """All tables and plots of one board."""
    cells, tables = list(board.cells.values()), tuple(matrices(board))
    fid = fid_name(board)
    # The anchors are of image quality: of the metrics in the FID's group.
    group = board.names.words(fid).group if fid else IMAGE_QUALITY
    index = {label(column): number for number, (column, _) in enumerate(board.columns)}
    ranked = tuple(
        (ranking, _scatter(board, ranking, index) if ranking.contested() else None)
        for ranking in rankings(board)
    )
    plotted = {
        label(line.cell.defense)
        for ranking, plot in ranked
        if plot
        for line in ranking.lines + ranking.outside
    }
    board_detectors, goals = detectors(board), other_goals(cells)
    measured = [cell for cell in cells if cell.with_status("ok")]
    return BoardView(
        board=board,
        matrices=tables,
        groups=tuple(dict.fromkeys(table.words.group for table in tables)),
        rankings=ranked,
        legend=tuple(
            (name, plots.marker(number)) for name, number in index.items() if name in plotted
        ),
        fid=fid or "",
        prompted=invocations(cells) == ["prompt"],
        classes="asr_class" in goals,
        sets="asr_set" in goals,
        pictures=invocations(cells) not in (["prompt"], []) or not goals,
        compositions=compositions(board),
        detectors=board_detectors,
        detected=detected_rows(board, board_detectors),
        model_detectors=model_detectors(board),
        absent=everywhere(measured),
        inversions=tuple(line for cell in board.all_cells() for line in inversion_lines(cell)),
        detections=tuple(detector_rankings(board)),
        recoveries=tuple(inversion_rankings(board)),
        controls=_table(
            [
                cell
                for cell in board.all_cells()
                if cell.defense.name == "none" and cell.kind != "anchor"
            ],
            _control_columns(cells, board.names),
            board.names,
        ),
        anchors=_table(
            list(board.anchors),
            [
                name
                for name in metric_names(board.anchors)
                if board.names.words(name).group == group
            ],
            board.names,
        ),
    )


def _scatter(board: Board, ranking: Ranking, index: Mapping[str, int]) -> Markup | None:
    """Rate against FID for one attack; ``None`` where there is no FID, or several attacks, each
    with its own.
    """
    fid, by_cell = ranking.end_point.utility, {one.cell().id: one for one in ranking.contenders}
    if fid is None or ranking.several() or ranking.end_point.higher_is_better:
        return None
    points = []
    for line in sorted(
        ranking.lines + ranking.outside, key=lambda line: index[label(line.cell.defense)]
    ):
        if line.utility is None:
            continue
        one = by_cell[line.cell.id]
        xs, ys = one.rates[line.way], one.utilities[0]
        seeds = tuple((xs[seed].value, ys[seed]) for seed in sorted(xs.keys() & ys.keys()))
        points.append(
            plots.Point(
                label=label(line.cell.defense),
                index=index[label(line.cell.defense)],
                x=line.worst,
                y=line.utility,
                seeds=seeds,
            )
        )
    if not points:
        return None
    anchors = [
        (names.anchor(cell.attack.name), interval.mean)
        for cell in board.anchors
        if cell.sampler is None or same_sampler(cell.sampler, ranking.rows[0].sampler)
        if (interval := summary(cell, fid))
    ]
    title = (
        f"{ranking.end_point.short} against {fid} for {label(ranking.attacks[0])}, one mark "
        f"per defense"
    )
    several = len({line.way.call for line in ranking.lines}) > 1 or len(ranking.lines[0].by_way) > 1
    return plots.trade_off(
        points,
        anchors,
        fid,
        title,
        ranking.end_point.short + (", strongest call" if several else ""),
    )


def _control_columns(cells: Sequence[Cell], words: names.Vocabulary) -> list[str]:
    """In their declared order; where nobody declares anything, the adversary's rates."""
    measured = metric_names(cells)
    order = {name: words.words(name).declared.control for name in measured}
    declared = sorted((name for name in measured if order[name]), key=order.__getitem__)
    return declared or [name for name in measured if names.split(name)[0] in RATES]


def _table(cells: Sequence[Cell], columns: Sequence[str], words: names.Vocabulary) -> ControlTable:
    return ControlTable(
        tuple(words.words(name) for name in columns),
        tuple((cell, tuple(steady_value(cell, name) for name in columns)) for cell in cells),
    )


def failures(boards: Iterable[Board]) -> list[tuple[Board, Cell, str, str, list[Entry]]]:
    """(board, cell, status, reason, entries), one per cell, status and reason."""
    rows = []
    for board in boards:
        for cell in board.all_cells():
            for status in ("failed", "skipped"):
                by_reason: dict[str, list[Entry]] = {}
                for entry in cell.with_status(status):
                    by_reason.setdefault(entry.record.reason or "no reason recorded", []).append(
                        entry
                    )
                rows += [
                    (board, cell, status, reason, entries)
                    for reason, entries in sorted(by_reason.items())
                ]
    return rows


def provenance(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Key -> its values with the number of records; keys with more than six values (hashes, times)
    only say how many.
    """
    by_key: dict[str, dict[str, int]] = {}
    for run in runs:
        for _, record in run.records:
            for key, value in flatten(record.provenance):
                counts = by_key.setdefault(key, {})
                counts[value] = counts.get(value, 0) + 1
    lines = []
    for key, counts in sorted(by_key.items()):
        values = sorted(counts.items())
        lines.append(
            (
                key,
                values
                if len(values) <= 6
                else [
                    (
                        f"{len(values)} different values, one in each cell's panel",
                        sum(counts.values()),
                    )
                ],
            )
        )
    return lines


def papers(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Citations that the records carry, each once, by year and title."""
    by_title: dict[tuple[str, str], dict[str, str]] = {}
    for run in sorted(runs, key=by_weight):  # the last is shown, as of cells: never a bundle's
        for _, record in run.records:
            for paper in papers_of(record):
                text = {
                    key: str(paper.get(key, ""))
                    for key in ("title", "authors", "year", "arxiv", "bibtex")
                }
                before = by_title.get((text["year"], text["title"]))
                if before and not text["bibtex"]:  # a citation that somebody can paste stays
                    text["bibtex"] = before["bibtex"]
                by_title[text["year"], text["title"]] = text
    return [paper for _, paper in sorted(by_title.items())]
