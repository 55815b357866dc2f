"""What stands beside a ranking: the same noise without a defense and with the best one, the scores
of the best detector, or what the best inversion recovered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from leaderboard.board import Cell, Entry, identity
from leaderboard.contrasts import natural
from leaderboard.detections import Detection
from leaderboard.inversions import Recovery
from leaderboard.labels import label
from leaderboard.pictures import Picture, embedded
from leaderboard.questions import Group, Question
from leaderboard.ranking import HOLDS, NONE, Ranking
from leaderboard.values import count_text, samples_of
from leaderboard.view import BoardView

#: CSS pixels that a strip is wide, at most, beside a ranking.
WIDTH = 384


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A picture with its heading and the cell it is from."""

    head: str
    tail: str
    picture: Picture
    cell: Cell

    @property
    def folded(self) -> bool:
        """Whether it is a row of images that is cut in the middle and drawn as two, twice as
        large.
        """
        return self.picture.folded


@dataclass(frozen=True, kw_only=True)
class Scene:
    """``board``: whose id; ``title``: what is to be seen; ``small``: the target and the trigger;
    ``plots``: drawings with a caption each.
    """

    board: str
    title: str
    note: str
    small: tuple[Strip, ...]
    strips: tuple[Strip, ...]
    plots: tuple[tuple[Markup, str], ...]


def scenes(question: Question, views: Sequence[BoardView]) -> tuple[Scene, ...]:
    """One of each board, of its first group that has one, those with an answer first; none of a
    board without pictures. The first is what is seen before anybody filters.
    """
    by_board = {view.board.id: view for view in views}
    made: dict[str, Scene] = {}
    for group in question.answered():
        if group.board.id not in made:
            one = _scene(question, group, by_board[group.board.id])
            if one:
                made[group.board.id] = one
    return tuple(made.values())


def _scene(question: Question, group: Group, view: BoardView) -> Scene | None:
    if question.id == "stops":
        return _same_noise(group)
    if question.id == "classifies":
        return _stamped(group)
    if question.recovery:
        return _recovered(group, view, question.recovery)
    return _scores(group, view)


def _same_noise(group: Group) -> Scene | None:
    """None and the best defense, one seed of both: called as works best without a defense, or, if
    not even that defense holds, as works best against it. What holds at its price comes before what
    does not hold.
    """
    ranking = group.source
    assert isinstance(ranking, Ranking)
    lines = ranking.in_order()
    none = next((line for line in lines if line.cell.defense.name == "none"), None)
    best = (
        next((line for line in lines if line.state == HOLDS), None)
        or next(iter(ranking.dear()), None)
        or next((line for line in lines if line.state != NONE and line is not none), None)
    )
    if none is None or best is None:
        return None
    way = none.way if best.holds else best.way
    row, metric, call = ranking.rows[way.row], way.metric, way.call
    control, defended = (group.board.cell(row, line.cell.defense) for line in (none, best))
    if control is None or defended is None:
        return None
    head = ranking.defense_names[identity(defended.defense)]
    for role in (f"call:{call}", "target"):
        entry = _first(control, role, "")
        if entry is None:
            continue
        seed = entry.record.seed
        strips = [_strip(entry, role, "", "No defense", _rate(control, metric), control)]
        for treatment in (defended.defense.name, label(defended.defense)):
            treated = _first(defended, role, treatment, seed)
            if treated:
                rate = _rate(defended, metric)
                strips.append(_strip(treated, role, treatment, head, rate, defended))
                break
        asked = "asked for the adversary’s class" if role == "target" else f"called by {call}"
        strongest = "without a defense" if best.holds else f"on {head}"
        return Scene(
            board=group.board.id,
            title="The same noise, undefended and defended" if len(strips) > 1 else "Undefended",
            note=f"The strongest attack {strongest}, {row.label}, {asked}; seed {seed}.",
            small=_small(entry, control),
            strips=tuple(strip for strip in strips if strip.picture.uri),
            plots=(),
        )
    return None


def _stamped(group: Group) -> Scene | None:
    """What the classifier has to get right."""
    for one in group.entries:
        entry = _first(one.cell, "stamped", "")
        if entry:
            strip = _strip(entry, "stamped", "", "Held-out images, stamped", "", one.cell)
            return Scene(
                board=group.board.id,
                title="What a classifier must not fall for",
                note=f"{label(one.cell.attack)}; seed {entry.record.seed}. Success for the "
                f"adversary is to see his class in these.",
                small=(),
                strips=(strip,) if strip.picture.uri else (),
                plots=(),
            )
    return None


def _scores(group: Group, view: BoardView) -> Scene | None:
    best = group.entries[0]
    detection = _detection(view, best.cell)
    if detection is None:
        return None
    judged = next((one for one in detection.judged if one.subject == group.subject), None)
    plots = []
    if judged and judged.scores:
        seed, drawn = judged.scores
        plots.append(
            (drawn, f"Scores, seed {seed}: area clean, line poisoned. Right is more suspicious.")
        )
    if detection.roc:
        plots.append((detection.roc, "ROC, one line per seed; dashed diagonal: guessing."))
    if not plots:
        return None
    return Scene(
        board=group.board.id,
        title=f"How {label(best.cell.defense)} tells poison from clean",
        note=f"Against {best.against}, where it does worst; judging {group.subject}; n {best.n}.",
        small=(),
        strips=(),
        plots=tuple(plots[:1]),
    )


def _recovered(group: Group, view: BoardView, recovery: Recovery) -> Scene | None:
    best = group.entries[0]
    lines = view.inversions_of.get(best.cell.id, [])
    line = next((one for one in lines if one.recovery == recovery), None)
    entry = next(iter(best.cell.with_status("ok")), None)
    if line is None or entry is None:
        return None
    caption = f"Error to the {recovery.what} of what is recovered, by epoch; thin: single seeds."
    plots = ((line.curve, caption),)
    role = _last_recovered(entry, recovery)
    head = f"Recovered, {role.partition(':')[2]}"
    strip = _strip(entry, role, "", head, "", best.cell) if role else None
    return Scene(
        board=group.board.id,
        title=f"What {label(best.cell.defense)} recovers of the {recovery.what}",
        note=f"Against {best.against}, where it does worst; n {best.n}.",
        small=_small(entry, best.cell),
        strips=(strip,) if strip and strip.picture.uri else (),
        plots=plots if line.curve else (),  # type: ignore[arg-type]
    )


def _last_recovered(entry: Entry, recovery: Recovery) -> str:
    """The role of the picture of the last epoch, which is what is ranked by."""
    prefix = "recovered:" if recovery.what == "target" else "recovered_trigger:"
    roles = [one.role for one in entry.record.pictures if one.role.startswith(prefix)]
    return max(roles, key=natural, default="")


def _detection(view: BoardView, cell: Cell) -> Detection | None:
    lines = (line for detector in view.detectors for line in detector.lines)
    return next(
        (
            line
            for line in lines
            if line.cell.id == cell.id and identity(line.cell.defense) == identity(cell.defense)
        ),
        None,
    )


def _first(cell: Cell, role: str, treatment: str, seed: int | None = None) -> Entry | None:
    """The first seed's entry that has such a picture."""
    return next(
        (
            entry
            for entry in cell.with_status("ok")
            if seed in (None, entry.record.seed) and entry.record.picture(role, treatment)
        ),
        None,
    )


def _strip(entry: Entry, role: str, treatment: str, head: str, tail: str, cell: Cell) -> Strip:
    path = entry.record.picture(role, treatment) or ""
    picture = embedded(entry.folder, head, path)
    if picture.width > WIDTH:
        scale = WIDTH / picture.width
        picture = replace(picture, width=WIDTH, height=round(picture.height * scale))
    elif picture.width:
        factor = max(1, WIDTH // picture.width)
        picture = replace(picture, width=picture.width * factor, height=picture.height * factor)
    return Strip(head=head, tail=tail, picture=picture, cell=cell)


def _small(entry: Entry, cell: Cell) -> tuple[Strip, ...]:
    """The trigger and the target, as large as in a strip."""
    strips = []
    for role, head in (("trigger_image", "trigger"), ("target_image", "target")):
        path = entry.record.picture(role)
        if path and (picture := embedded(entry.folder, head, path)).uri:
            size = min(WIDTH / picture.width, 48 / picture.height) if picture.width else 1
            sized = replace(
                picture, width=round(picture.width * size), height=round(picture.height * size)
            )
            strips.append(Strip(head=head, tail="", picture=sized, cell=cell))
    return tuple(strips)


def _rate(cell: Cell, metric: str) -> str:
    values = cell.values(metric)
    if not values:
        return ""
    n = count_text(len(values), samples_of(cell, metric))
    return f"{100 * sum(values.values()) / len(values):.0f} % success, n {n}"
