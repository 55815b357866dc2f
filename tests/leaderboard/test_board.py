"""How records become boards and cells: never across protocols, nothing lost, nothing counted twice,
no dependence on order.
"""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from bench import results
from bench.record import Flag, Metric, Picture, PluginSpec, Record, Run, read_runs
from leaderboard import palette
from leaderboard.board import boards, families
from leaderboard.inversions import inversion_lines
from leaderboard.labels import label
from leaderboard.matrix import MetricTable, matrices
from leaderboard.panel import panel
from leaderboard.ranking import rankings
from leaderboard.report import render
from leaderboard.sources import read_sources
from leaderboard.values import Value
from leaderboard.view import board_view

NONE = PluginSpec(name="none", label="none")


def record(seed: int = 0, asr: float = 0.5, **changes: object) -> Record:
    plain = Record(
        testbed=PluginSpec(name="t"), attack=PluginSpec(name="a"), defense=PluginSpec(name="d"),
        seed=seed, status="ok",
        kind="sampler", protocol="p", metrics={"asr[noise]": Metric(value=asr,
        higher_is_better=False)},
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def run(
    *records: Record, finished: str | None = "2026-01-01T01:00:00+00:00", suite: str = "s"
) -> Run:
    return Run(
        suite=suite, description="", started="2026-01-01T00:00:00+00:00", finished=finished,
        counts={},
        records=[(Path("/nowhere"), one) for one in records],
    )  # fmt: skip


def table(store: Path, metric: str) -> MetricTable:
    return next(
        table for table in matrices(boards(read_runs(store))[0]) if table.words.name == metric
    )


def test_one_board_per_protocol() -> None:
    """The same attack and defense under another protocol is another number, not another seed."""
    several = boards([run(record(0, 0.1), record(1, 0.9, protocol="q"))])
    assert [board.protocol for board in several] == ["p", "q"]
    assert [len(cell.entries) for board in several for cell in board.all_cells()] == [1, 1]


def test_a_main_suite_comes_before_what_varies_a_parameter_of_it() -> None:
    """A reader looks for the matrix, not for the four cells at another guidance weight."""
    varied = PluginSpec(name="t", params={"guidance_scale": 1.0}, label="varied")
    usual = PluginSpec(name="t", params={"guidance_scale": 2.0}, label="usual")
    other = PluginSpec(name="a", label="other")
    records = [record(seed, testbed=usual) for seed in range(2)]
    several = boards([run(*records, record(testbed=varied), record(testbed=other))])
    assert [(board.testbed.name, board.testbed.params) for board in several] == [
        (one.name, one.params) for one in (other, usual, varied)
    ]
    published = boards(read_sources([results.published()]))
    largest = next(one for one in published if one.testbed.name == "digits-cfg")
    assert len(largest.cells) == max(
        len(one.cells) for one in published if one.testbed.name == "digits-cfg"
    )


def test_a_cell_in_two_runs_counts_once_and_the_later_run_wins() -> None:
    """Or three seeds run twice would pass for six."""
    old, new = (
        run(record(0, 0.1), suite="a"),
        run(record(0, 0.9), finished="2026-01-02T00:00:00+00:00", suite="b"),
    )
    for order in ([old, new], [new, old]):
        (board,) = boards(order)
        assert board.all_cells()[0].values("asr[noise]") == {0: 0.9}


def test_a_failure_without_protocol_joins_its_testbeds_board() -> None:
    """A cell that failed before its protocol was known must not vanish into a board of its own."""
    failed = record(1, status="failed", protocol="", reason="broken", metrics={})
    (board,) = boards([run(record(0), failed)])
    assert [entry.record.status for entry in board.all_cells()[0].entries] == ["ok", "failed"]
    assert len(boards([run(record(0), record(0, protocol="q"), failed)])) == 3


def test_two_parameter_sets_under_one_label_stay_apart() -> None:
    """Two identical column heads would hide which is which."""
    two = [
        record(0, defense=PluginSpec(name="d", params={"strength": value}, label="d"))
        for value in (1, 2)
    ]
    (board,) = boards([run(*two)])
    assert [label(column) for column, _ in board.columns] == [
        'd {"strength": 1}',
        'd {"strength": 2}',
    ]


def test_the_two_controls_share_a_name_and_keep_it() -> None:
    """The attack `none` has parameters and the defense `none` has none; as a row and a column they
    need no telling apart.
    """
    honest = PluginSpec(name="none", params={"scheme": "finetune"}, label="none")
    board = boards(
        [run(record(attack=honest, probe=PluginSpec(name="a"), defense=NONE, kind="control"))]
    )[0]
    assert [label(column) for column, _ in board.columns] == ["none"]
    assert [label(row.attack) for row in board.rows] == ["none"]


def test_rows_start_with_controls_and_columns_with_none_then_families(store: Path) -> None:
    """The reader finds the control first, and related defenses side by side."""
    (board,) = boards(read_runs(store))
    assert [row[0].name for row in board.rows] == ["none", "none", "baddiffusion", "baddiffusion"]
    assert [row[1] is None for row in board.rows] == [False, False, True, True]
    assert [column.name for column, _ in board.columns] == [
        "none",
        "clip_x0",
        "clip_xt",
        "finetune",
        "anp",
    ]
    assert families(board.columns) == [
        ("control", 1),
        ("sampler", 2),
        ("model", 1),
        ("inversion", 1),
    ]
    assert [anchor.attack.name for anchor in board.anchors] == ["base_model", "real_images"]


def test_order_of_reading_changes_nothing(store: Path) -> None:
    """A pure function of the records."""
    (read,) = read_runs(store)
    shuffled = list(read.records)
    random.Random(3).shuffle(shuffled)
    assert (
        boards([dataclasses.replace(read, records=shuffled)])[0].cells.keys()
        == boards([read])[0].cells.keys()
    )


def test_cells_say_why_they_have_no_number(store: Path) -> None:
    """Absent, failed and skipped are three different findings."""
    rows = {
        row[0].label if row[1] is None else "": cells
        for row, cells in table(store, "asr[noise]").rows
    }
    hat = rows[next(name for name in rows if "hat" in name)]
    corner = rows[next(name for name in rows if "corner" in name)]
    assert (hat[4].text, hat[4].note) == ("–", "an inversion changes no sample")
    assert (corner[2].state, corner[2].note) == ("failed", "failed: open it for the reason")
    assert corner[3].badges == ("1 seed failed", "n < 3 seeds")
    field = next(c for row, c in table(store, "asr_field[noise]").rows if "corner" in row[0].label)
    assert field[3].badges == ("vacuous threshold", *corner[3].badges)
    assert corner[3].n == "2 × 128"
    assert rows[""][4].state == "skipped"
    inversion = {
        row[0].label: cells
        for row, cells in table(store, "inversion_mse_best").rows
        if row[1] is None
    }
    assert [cell.state for cell in next(iter(inversion.values()))][3:] == ["absent", "value"]


def test_a_column_without_a_single_number_is_named_below_instead(store: Path) -> None:
    """Half a table of dashes hides what there is; who looks for a defense must still find out why
    it is not there.
    """
    asr = table(store, "asr[noise]")
    # A failed or skipped cell is something to see.
    assert [column.name for column, _ in asr.visible_columns()] == [
        "none",
        "clip_x0",
        "clip_xt",
        "finetune",
        "anp",
    ]
    assert asr.left_out() == []
    inverted = table(store, "inversion_mse_best")
    visible = [column.name for column, _ in inverted.visible_columns()]
    assert "anp" in visible and "clip_x0" not in visible
    assert sum(span for _, span in inverted.families()) == len(visible)
    assert all(len(inverted.visible_cells(cells)) == len(visible) for _, cells in inverted.rows)
    named = {column.name: reason for reason, columns in inverted.left_out() for column in columns}
    assert named["clip_x0"] == "only an inversion has this number"
    assert set(named) | set(visible) == {column.name for column, _, _ in inverted.columns}


def test_a_row_without_a_single_number_is_counted_below_instead() -> None:
    """Of fifty attacks only some aim at an image: the rest were fifty lines of dashes."""
    why = Flag("not-measured", "asr[noise]", "this attack aims at no image")
    silent: dict[str, object] = {"metrics": {"fid": Metric(value=1.0)}, "flags": (why,)}
    attacks = {name: PluginSpec(name=name) for name in ("aims", "broken", "silent", "quiet")}
    (board,) = boards(
        [
            run(
                record(attack=attacks["aims"]),
                record(attack=attacks["broken"], status="failed", reason="NaN", metrics={}),
                *(record(attack=attacks[name], **silent) for name in ("silent", "quiet")),
            )
        ]
    )
    (asr,) = (one for one in matrices(board) if one.words.name == "asr[noise]")
    assert len(asr.rows) == 4
    # A failed cell is something to see.
    assert {row.attack.name for row, _ in asr.visible_rows()} == {"aims", "broken"}
    assert asr.rows_left_out() == [("this attack aims at no image", 2)]
    (fid,) = (one for one in matrices(board) if one.words.name == "fid")
    assert {row.attack.name for row, _ in fid.visible_rows()} == {"broken", "silent", "quiet"}
    assert sum(count for _, count in fid.rows_left_out()) == 1
    page = render([run(record(attack=attacks["aims"]), record(attack=attacks["silent"], **silent))])
    assert "Without a number of it: 1 row (this attack aims at no image)." in page


def test_colour_follows_the_defenders_direction(store: Path) -> None:
    """High MSE under attack and low ASR are both good: a scale that ignores direction would praise
    the broken model.
    """
    for metric in ("asr[noise]", "mse[noise]", "ssim[noise]"):
        attacked = table(store, metric).rows[2][1]
        undefended, clipped = attacked[0].step, attacked[1].step
        assert undefended is not None and clipped is not None
        assert undefended <= 2 and clipped >= palette.STEPS - 2
    assert (
        table(store, "asr[noise]").worst == "1.00" and table(store, "ssim[noise]").worst == "1.00"
    )
    assert palette.step(0.2, 0, 1, None) is None and palette.step(1, 1, 1, True) is None


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_on_every_step_of_the_scale(theme: str) -> None:
    """WCAG AAA, 7 to 1; and the ends differ visibly from the middle."""
    steps = palette.scale(theme)
    assert len(set(steps)) == palette.STEPS
    assert min(palette.contrast(step, palette.TEXT[theme]) for step in steps) >= 7
    assert (steps[0], steps[5], steps[-1]) == palette.SCALES[theme]


def test_contrast_of_black_and_white_is_21() -> None:
    """The formula itself, at its closed end points."""
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#777777", "#777777") == 1


def test_ranking_takes_the_stronger_invocation_and_pairs_seeds(store: Path) -> None:
    """An adversary uses the better way in; the change is against no defense over common seeds."""
    worst, *single = rankings(boards(read_runs(store))[0])
    by_attack = {label(ranking.attacks[0]): ranking for ranking in single}
    hat = next(ranking for name, ranking in by_attack.items() if "hat" in name)
    noise = hat.lines[-1].cell.values("asr[noise]")
    assert [line.cell.defense.name for line in hat.lines] == ["clip_x0", "finetune", "none"]
    assert (
        hat.lines[-1].worst.mean == pytest.approx(sum(noise.values()) / 3)
        and hat.lines[-1].way.metric == "asr[noise]"
    )
    assert hat.lines[0].change is not None and hat.lines[0].change.high < 0  # type: ignore[operator]
    assert [line.cell.defense.name for line in hat.holders()] == ["clip_x0"]
    assert [line.cell.defense.name for line in hat.dear()] == ["clip_xt"], (
        "it stops the attack, at a quarter more of FID"
    )
    corner = next(ranking for name, ranking in by_attack.items() if "corner" in name)
    unranked = {line.cell.defense.name: line.note for line in corner.lines if not line.rank}
    assert unranked == {"finetune": "fewer than 3 seeds", "clip_xt": "fewer than 3 seeds"}, (
        "one seed failed, all seeds failed"
    )
    assert [line.cell.defense.name for line in worst.holders()] == ["clip_x0"] and worst.several()


def test_nothing_holds_if_no_defense_shares_the_first_rank() -> None:
    """Then no defense may be praised."""
    cells = [
        record(seed, asr, defense=PluginSpec(name=name), kind=kind)
        for name, kind, rates in (
            ("none", "control", (0.5, 0.6, 0.4)),
            ("d", "sampler", (0.6, 0.4, 0.5)),
        )
        for seed, asr in enumerate(rates)
    ]
    (ranking,) = rankings(boards([run(*cells)])[0])
    assert (
        [line.rank for line in ranking.lines] == ["1=", "1="]
        and ranking.holders() == []
        and ranking.ranked()
    )
    (few,) = rankings(boards([run(*cells[:2], *cells[3:5])])[0])
    assert [line.rank for line in few.lines] == ["", ""] and not few.ranked()


def test_no_defense_at_all_is_no_ranking() -> None:
    """Three seeds without a defense that draws anything: too few seeds is not the reason, and a
    table of one is none.
    """
    alone = [record(seed, defense=PluginSpec(name="none"), kind="control") for seed in range(3)]
    html = render([run(*alone)])
    assert (
        "No defense on this board acts on this." in html
        and "Not ranked" not in html
        and '-rank1"' not in html
    )
    html = render([run(*alone, *(record(seed, asr=0.1 + seed / 100) for seed in range(3)))])
    assert '-rank1"' in html and "No defense on this board" not in html


@pytest.mark.parametrize(
    ("best", "verdict"),
    [
        ((0.01, 0.011, 0.012), "better than the best flat image"),
        ((0.001, 0.01, 0.029), "below the best flat image, but these seeds leave it in doubt"),
        ((0.01,), "below the best flat image, but these seeds leave it in doubt"),
        ((0.05, 0.06, 0.05), "no better than the best flat image, though below a black image"),
        ((0.2, 0.3, 0.2), "no better than the best flat image"),
    ],
)
def test_an_inversion_is_judged_against_the_harder_line(
    best: tuple[float, ...], verdict: str
) -> None:
    """Beating a black image is easy where the target is bright: only less than the best flat image
    is a found target.
    """
    lines = {"inversion_mse_black": Metric(value=0.106), "mse[constant]": Metric(value=0.02)}
    cells = [
        record(seed, kind="inversion", metrics={"inversion_mse_best": Metric(value=value), **lines})
        for seed, value in enumerate(best)
    ]
    (board,) = boards([run(*cells)])
    (line,) = inversion_lines(board.all_cells()[0])
    assert (line.recovery.what, line.verdict) == ("target", verdict)
    n = str(len(best))
    assert line.values[2:] == (
        ("inversion_mse_black", "black image", Value("0.106", n=n)),
        ("mse[constant]", "best flat image", Value("0.0200", n=n)),
    )


def test_an_inversion_of_one_epoch_is_drawn() -> None:
    """A range of zero width must not divide by zero."""
    one = record(
        kind="inversion", metrics={}, series={"inversion_mse": [0.0], "inversion_epoch": [1.0]}
    )
    (line,) = inversion_lines(boards([run(one)])[0].all_cells()[0])
    assert "<circle" in str(line.curve)


def test_a_recovered_trigger_has_a_line_and_a_curve_of_its_own() -> None:
    """It is compared with constant images of the trigger, not of the target."""
    metrics = {
        "inversion_mse_best": 0.01, "inversion_mse_last": 0.02, "inversion_mse_black": 0.106,
        "mse[constant]": 0.02,
        "trigger_mse_best": 0.05, "trigger_mse_last": 0.06, "trigger_mse_constant": 0.04,
    }  # fmt: skip
    cells = [
        record(
            seed,
            kind="inversion",
            metrics={name: Metric(value=value) for name, value in metrics.items()},
            series={"inversion_mse": [0.02, 0.01], "trigger_mse": [0.05, 0.06]},
        )
        for seed in range(3)
    ]
    (board,) = boards([run(*cells)])
    trigger, target = inversion_lines(board.all_cells()[0])
    assert [name for _, name, _ in trigger.values] == [
        "best epoch",
        "last epoch",
        "best flat image",
    ]
    assert [one.text for *_, one in trigger.values] == ["0.0500", "0.0600", "0.0400"]
    assert trigger.verdict == "no better than the best flat image"
    assert target.verdict == "better than the best flat image"
    assert "MSE to the trigger" in str(trigger.curve) and "to the target" not in str(trigger.curve)
    page = render([run(*cells)])
    for what in ("trigger", "target"):
        assert f"What it recovers of the {what}" in page and f"Ranked: recovers the {what}" in page


def test_pictures_outside_the_store_or_not_png_are_not_embedded(tmp_path: Path) -> None:
    """A record is data from elsewhere: it must not pull this machine's files, or anything but PNG,
    into a shared page.
    """
    (tmp_path / "cell").mkdir()
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    (tmp_path / "cell" / "page.png").write_text("<svg onload=alert(1)>")
    paths = {
        "a": "../secret.png",
        "b": "page.png",
        "c": "gone.png",
        "d": str(tmp_path / "secret.png"),
    }
    pictures = tuple(Picture(role, "", path) for role, path in paths.items())
    one = run(record(pictures=pictures))
    (board,) = boards([dataclasses.replace(one, records=[(tmp_path / "cell", one.records[0][1])])])
    (seed,) = panel(board.all_cells()[0], board_view(board)).pictures
    pictures = seed.beside
    assert [picture.uri for picture in pictures] == [""] * 4
    assert {picture.name: picture.problem.split(" ", 1)[1] for picture in pictures} == {
        "a": "lies outside the record's folder and was not read",
        "b": "is not a PNG and was not embedded",
        "c": "is missing from the store",
        "d": "lies outside the record's folder and was not read",
    }


def test_a_flag_about_one_metric_shows_on_that_metric_only() -> None:
    """The field's rule being vacuous says nothing against the calibrated one."""
    numbers = {
        name: Metric(value=0.5, higher_is_better=False)
        for name in ("asr[noise]", "asr_field[noise]")
    }
    flags = (
        Flag("vacuous-threshold", "asr_field", "vacuous threshold, clean images pass"),
        Flag("constant-samples", "", "constant samples: all alike"),
    )
    board = boards([run(*(record(seed=seed, metrics=numbers, flags=flags) for seed in range(3)))])[
        0
    ]
    badges = {
        table.words.name: table.rows[0][1][0].badges
        for table in matrices(board)
        if table.words.name in numbers
    }
    assert badges == {
        "asr[noise]": ("constant samples",),
        "asr_field[noise]": ("vacuous threshold", "constant samples"),
    }
