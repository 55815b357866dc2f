"""For a paper: the whole matrix as tables in LaTeX and Markdown, one for each testbed and metric,
and the BibTeX of every method in it.

Records may come from anybody: no text of theirs is a command of LaTeX or Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.record import Run
from leaderboard.board import Board, Row, under
from leaderboard.front import board_names
from leaderboard.labels import label
from leaderboard.matrix import TableCell
from leaderboard.methods import Paper, paper_anchor
from leaderboard.names import split
from leaderboard.sound import visible
from leaderboard.view import papers
from leaderboard.whole import ASR, CLASSIFIER, DETECTION, POPULATION, RECOVERED, Whole, whole

#: What each metric is and which direction is good for the defender.
_MEANING = {
    ASR: "Attack success by the call that works best; lower is better",
    CLASSIFIER: "Attack success on the classifier; lower is better",
    DETECTION: "AUROC of detectors; higher is better",
    POPULATION: "AUROC of backdoored against honest models; higher is better",
    **{
        metric: f"Mean squared error of the last epoch to the {recovery.what}; lower is better"
        for metric, recovery in RECOVERED.items()
    },
}
#: Marks a number of which seeds are missing because they failed.
FAILED = "†"
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "_": r"\_", "%": r"\%", "^": r"\^{}", "~": r"\~{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "×": r"$\times$", "–": "--",
    "’": "'", "†": r"\dag{}", "“": "``", "”": "''", "…": r"\ldots{}",
}  # fmt: skip
#: Of an entry: ``@article{chou2023,``.
_ENTRY = re.compile(r"\s*@([A-Za-z]+)\s*\{\s*([^,\s{}%#\\~]{1,100})\s*,")
_TYPES = frozenset(
    "article book booklet conference inbook incollection inproceedings manual mastersthesis misc "
    "online phdthesis proceedings report software techreport unpublished".split()
)
#: What an entry's text may ask of TeX: letters with accents, other letters, signs, a style, a link.
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_COMMANDS = frozenset(
    [*"'`^\"~=.cvuHkrbdt", "ss", "o", "O", "l", "L", "aa", "AA", "ae", "AE", "oe", "OE", "i", "j"]
    + [*"&%$#_{}- ", "emph", "textit", "textbf", "textsc", "texttt", "url", "href"]
)


@dataclass(frozen=True)
class Line:
    """A row of a table. ``cells``: (number, interval); ``control``: whether the model is honest."""

    head: str
    papers: tuple[Paper, ...]
    cells: tuple[tuple[str, str], ...]
    control: bool


@dataclass(frozen=True)
class Table:
    """One testbed under one metric. ``heads``: of the columns after the first, with their
    papers.
    """

    name: str
    caption: str
    heads: tuple[tuple[str, tuple[Paper, ...]], ...]
    lines: tuple[Line, ...]


def latex(runs: Sequence[Run], boards: Sequence[Board]) -> str:
    """Every table, for a document that uses the packages booktabs and textcomp (T1 fonts)."""
    keys = _keys(runs)
    return "\n".join(
        ["% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.", ""]
        + [_latex_table(table, keys) for table in tables(boards)]
    )


def markdown(boards: Sequence[Board]) -> str:
    """Every table, with its caption before it."""
    return "\n\n".join(_markdown_table(table) for table in tables(boards)) + "\n"


def bibtex(runs: Sequence[Run]) -> str:
    """An entry for each paper that the records cite; one without BibTeX, or with more than one
    entry of it, gets an entry of what else is known. Of two entries under one key the second has a
    letter more.
    """
    return "\n\n".join(dict.fromkeys(text for _, _, text in _entries(runs))) + "\n"


def tables(boards: Sequence[Board]) -> list[Table]:
    """Of the matrix, for each board the columns of one metric that have a number."""
    every, words = whole(boards), board_names(boards)
    made = []
    for board, _ in every.boards:
        for metric in dict.fromkeys(column.metric for column in every.columns):
            table = _table(every, board, metric, words[board.id])
            if table is not None:
                made.append(table)
    return made


def _table(every: Whole, board: Board, metric: str, name: str) -> Table | None:
    lines = next(lines for other, lines in every.boards if other is board)
    used = [
        index
        for index, column in enumerate(every.columns)
        if column.metric == metric and any(line.items[index].value is not None for line in lines)
    ]
    if not used or all(every.columns[index].control for index in used):
        return None
    rows = [
        Line(
            head=_row_head(line.row),
            papers=line.papers,
            cells=tuple(_cell(line.items[index].table) for index in used),
            control=line.control,
        )
        for line in lines
        if any(line.items[index].value is not None for index in used)
    ]
    counts = {
        line.items[index].table.n
        for line in lines
        for index in used
        if line.items[index].value is not None
    }
    subjects = {split(line.items[index].name)[1] for line in lines for index in used}
    judged = f", judging {', '.join(sorted(subjects - {''}))}" if metric == DETECTION else ""
    over = (
        "over all models, with DeLong’s 95 % interval"
        if metric == POPULATION
        else "mean and 95 % interval over seeds"
    )
    failed = any(FAILED in text for row in rows for text, _ in row.cells)
    caption = (
        f"{_MEANING[metric]} for the defender{judged}. {label(board.testbed)}, protocol "
        f"{board.protocol[:8] or 'not recorded'}; {over}; n (seeds × samples): "
        f"{', '.join(sorted(counts))}."
        f"{f' {FAILED}: other seeds failed, and are not in the number.' if failed else ''}"
    )
    heads = tuple(
        (f"{column.head}{f' ({column.params})' if column.params else ''}", column.papers)
        for column in (every.columns[index] for index in used)
    )
    return Table(f"{name}-{metric}", caption, heads, tuple(rows))


def _row_head(row: Row) -> str:
    if row.probe is None:
        return row.label
    return f"no attack, tried with {label(row.probe)}{under(row.sampler)}"


def _cell(table: TableCell) -> tuple[str, str]:
    """A number, or why there is none."""
    if table.state != "value":
        return (table.state if table.state in ("failed", "skipped") else "–"), ""
    mark = FAILED if table.cell is not None and table.cell.with_status("failed") else ""
    return table.text + mark, table.interval if table.interval.startswith("[") else ""


def _latex_table(table: Table, keys: Mapping[str, str]) -> str:
    def cited(text: str, papers: Iterable[Paper]) -> str:
        known = [keys[paper.anchor] for paper in papers if paper.anchor in keys]
        return _tex(text) + (f"~\\cite{{{','.join(known)}}}" if known else "")

    def row(line: Line) -> str:
        cells = [
            _tex(number) + (f" {{\\scriptsize {_tex(ends)}}}" if ends else "")
            for number, ends in line.cells
        ]
        return " & ".join([cited(line.head, line.papers), *cells]) + r" \\"

    attacked = [row(line) for line in table.lines if not line.control]
    honest = [row(line) for line in table.lines if line.control]
    slug = re.sub(r"[^a-z0-9]+", "-", table.name.lower()).strip("-")
    heads = " & ".join(["attack", *(cited(text, papers) for text, papers in table.heads)])
    # A row that begins with a bracket or a star would be an argument of the end of the one before.
    attacked, honest = (["{}" + line for line in rows] for rows in (attacked, honest))
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{_tex(table.caption)}}}",
            f"\\label{{tab:{slug}}}",
            f"\\begin{{tabular}}{{l{'r' * len(table.heads)}}}",
            r"\toprule",
            heads + r" \\",
            r"\midrule",
            *attacked,
            *([r"\midrule"] if attacked and honest else []),
            *honest,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _markdown_table(table: Table) -> str:
    rows = [["attack", *(_md(text) for text, _ in table.heads)]]
    rows.append(["---", *["---:"] * len(table.heads)])
    for line in table.lines:
        cells = [f"{_md(number)} {_md(ends)}".strip() for number, ends in line.cells]
        rows.append([_md(line.head), *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([_md(table.caption), "", *lines])


def _tex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(text))


def _md(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", _one_line(text))


def _one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def _keys(runs: Sequence[Run]) -> dict[str, str]:
    """Anchor of a paper -> its key in :func:`bibtex`."""
    return {anchor: key for anchor, key, _ in _entries(runs)}


def _entries(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """(anchor, key, entry) of each paper."""
    made: list[tuple[str, str, str]] = []
    taken: dict[str, str] = {}
    for paper in papers(runs):
        text = visible(paper["bibtex"]).strip()
        match = _ENTRY.match(text)
        if match is None or not (_balanced(text) and _plain(text, match[1])):
            text = _made_up(paper)
            match = _ENTRY.match(text)
        assert match is not None  # ours has a key
        key = match[2]
        while taken.setdefault(key, text) != text:
            key += "a"
        entry = f"{text[: match.start(2)]}{key}{text[match.end(2) :]}"
        made.append((paper_anchor(paper), key, entry))
    return made


def _plain(text: str, kind: str) -> bool:
    """Whether it is of a known kind, and no text of it is a command that does more than to write:
    ``\\input`` reads files. Two circumflexes spell any letter, a backslash too.
    """
    commands = set(_COMMAND.findall(text))
    return kind.lower() in _TYPES and commands <= _COMMANDS and "^^" not in text


def _balanced(text: str) -> bool:
    """Whether it is one entry: its last brace closes its first one."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0 and "{" in text[: index + 1]:
            return index == len(text) - 1
    return False


def _made_up(paper: Mapping[str, str]) -> str:
    """An entry of what the record says of a paper."""
    first = paper["authors"].split(",")[0].split() or ["anonymous"]
    key = re.sub(r"[^a-z0-9]", "", f"{first[-1]}{paper['year']}".lower())[:60] or "paper"
    fields = {
        "title": _tex(paper["title"]),
        "author": " and ".join(
            _tex(name.strip()) for name in paper["authors"].split(",") if name.strip()
        ),
        "year": _tex(paper["year"]),
        "eprint": _tex(paper["arxiv"]),
    }
    body = ", ".join(f"{name}={{{text}}}" for name, text in fields.items() if text)
    return f"@misc{{{key}, {body}}}"
