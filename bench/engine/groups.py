"""Stages that one job of a cluster makes together, so that what they share is loaded once and a
queue is not filled with jobs of a second: a pure function of a graph of stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.engine.graph import Stage
from bench.engine.schedule import UNKNOWN_SECONDS


@dataclass(kw_only=True)
class Group:
    """``keys``: the stages, inputs before what needs them; ``needs``: numbers of the groups that
    must be done before; ``all_needs``: those and what they need; ``seconds``: of all its stages.
    """

    keys: list[str] = field(default_factory=list)
    needs: frozenset[int] = frozenset()
    all_needs: frozenset[int] = frozenset()
    seconds: float = 0.0


def grouped(
    stages: Mapping[str, Stage],
    waiting: Iterable[str],
    longest: float,
    batch: float,
    *,
    known: Sequence[Iterable[str]] = (),
    expected: Callable[[Stage], float | None] = lambda stage: stage.seconds,
) -> list[Group]:
    """The groups of ``waiting``, whose order has inputs before what needs them. A stage joins the
    group of its inputs if that group waits for everything else it needs, so a model's training,
    samples and measurements are one job, which is not expected to take more than ``longest``
    seconds. Stages that have only in common what they wait for are put together up to ``batch``
    seconds: less is not worth a job. One stage may take as long as it does.

    ``known``: stages that are at work already, as they are grouped there; those groups come first.
    A group needs only groups before it. ``expected``: the seconds of a stage, if anybody knows; by
    default those that are declared.
    """
    groups = [Group(keys=list(keys)) for keys in known]
    of = {key: number for number, group in enumerate(groups) for key in group.keys}
    alike: dict[frozenset[int], int] = {}
    for key in waiting:
        if key in of:
            continue
        own = expected(stages[key]) or UNKNOWN_SECONDS
        needs = frozenset(of[above] for above in stages[key].inputs.values() if above in of)
        number = _room(groups, needs, own, longest, len(known))
        if number is None and needs in alike and groups[alike[needs]].seconds + own <= batch:
            number = alike[needs]
        if number is None:
            every = needs.union(*(groups[one].all_needs for one in needs))
            number = alike[needs] = len(groups)
            groups.append(Group(needs=needs, all_needs=every))
        groups[number].keys.append(key)
        groups[number].seconds += own
        of[key] = number
    return groups


def _room(
    groups: Sequence[Group], needs: frozenset[int], own: float, longest: float, first: int
) -> int | None:
    """The last of ``needs``, if it waits for all the others and has room; ``first``: of those that
    may be added to.
    """
    last = max(needs, default=-1)
    if last < first or groups[last].seconds + own > longest:
        return None
    return last if needs - {last} <= groups[last].all_needs else None
