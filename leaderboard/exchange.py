"""Writes a board's numbers in the formats of others. The same records give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.record import Run
from leaderboard import every_eval_ever, hub_results, paper
from leaderboard.board import boards
from leaderboard.red_flags import flagged
from leaderboard.report import write_files


def write_format(
    form: str, runs: Sequence[Run], suites: Sequence[str], output: Path, dataset: str = ""
) -> list[Path]:
    """Writes ``runs``, or of them ``suites``, below ``output`` as ``every-eval-ever``, ``hf``,
    ``latex``, ``markdown`` or ``bibtex``; returns the files. ``dataset``: for ``hf``. Raises
    :class:`UserError` for an unknown suite, without records, and if nothing can be written.
    """
    unknown = sorted(set(suites) - {run.suite for run in runs})
    if unknown:
        held = ", ".join(sorted({run.suite for run in runs}))
        raise UserError(f"there is no run of {unknown[0]}; there are {held or 'none'}")
    runs = [run for run in runs if run.records and (not suites or run.suite in suites)]
    page_boards = flagged(boards(runs))
    made = {
        "every-eval-ever": lambda: every_eval_ever.files(page_boards),
        "hf": lambda: hub_results.files(page_boards, dataset),
        "latex": lambda: {"tables.tex": paper.latex(runs, page_boards)},
        "markdown": lambda: {"tables.md": paper.markdown(page_boards)},
        "bibtex": lambda: {"papers.bib": paper.bibtex(runs)},
    }[form]()
    if not runs or not made:
        raise UserError("there are no records to export yet; `castlewalls run SUITE` makes some")
    files = {output / name: text for name, text in made.items()}
    write_files(files, f"below {output}")
    return list(files)
