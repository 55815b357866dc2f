"""The numbers of tiny suites, kept: whoever moves one says so, by raising a version."""

import json
import os
from pathlib import Path

from bench.artefacts.roles import MEASURED_BY
from bench.measurements import table
from bench.record import SHARE
from bench.stages.measure import MEASURED
from bench.stages.table import STAGES

FILE = Path(__file__).with_name("golden.json")
WRITE = "CASTLEWALLS_GOLDEN"
#: Other processors round otherwise, so that a pixel or the odd sample falls to the other side.
RELATIVE, ABSOLUTE, SAMPLES = 0.01, 0.001, 1


def versions() -> dict[str, int]:
    """Of everything that decides a number."""
    return {name: kind.version for name, kind in STAGES.items()} | {
        f"{MEASURED_BY}{one.name}": one.version for one in table().values()
    }


def numbers(walk) -> dict[str, dict[str, list]]:
    """``measurement cell -> metric -> [value, n, unit]`` of every cell of a walk."""
    by_cell = {}
    for cell in walk.plan.cells:
        if cell.stage is None:
            continue
        who = "/".join([cell.attack.name, cell.probe.name if cell.probe else "", cell.defense.name])
        for role, key in walk.plan.stages[cell.stage].inputs.items():
            if role.startswith(MEASURED_BY):
                metrics = json.loads((walk.folders[key] / MEASURED).read_text())["metrics"]
                values = {
                    name: [metric["value"], metric["n"], metric["unit"]]
                    for name, metric in sorted(metrics.items())
                }
                if values:
                    by_cell[f"{role.removeprefix(MEASURED_BY)} {who}"] = values
    return by_cell


def check(name: str, walk) -> None:
    """Raises ``AssertionError`` saying which measurements moved and what to do."""
    golden = json.loads(FILE.read_text()) if FILE.is_file() else {"versions": {}, "numbers": {}}
    now = numbers(walk)
    if os.environ.get(WRITE):
        data = {"versions": versions(), "numbers": golden["numbers"] | {name: now}}
        FILE.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
        return
    again = f"then run these tests once with {WRITE}=1, which writes {FILE.name} anew"
    raised = sorted(
        what for what, version in versions().items() if golden["versions"].get(what, 1) != version
    )
    assert not raised, f"the versions of {', '.join(raised)} were raised: {again}"
    before = golden["numbers"][name]
    moved = sorted(
        f"{cell}: {metric} was {before[cell].get(metric)}, is {now[cell].get(metric)}"
        for cell in before.keys() & now.keys()
        for metric in before[cell].keys() | now[cell].keys()
        if not close(before[cell].get(metric), now[cell].get(metric))
    )
    which = sorted({line.partition(" ")[0] for line in moved})
    assert not moved, (
        f"numbers moved and no version did. If it is on purpose, raise `version` in "
        f"bench/measurements/{{{','.join(which)}}}.py, or, if a "
        f"stage gives another result, its own in bench/stages/table.py; {again}.\n"
        + "\n".join(moved[:20])
    )
    assert before.keys() == now.keys(), (
        f"other cells or measurements than before: {sorted(before.keys() ^ now.keys())}; {again}"
    )


def close(one: list | None, other: list | None) -> bool:
    """Whether two numbers differ by no more than processors do."""
    if (
        one is None
        or other is None
        or one[1:] != other[1:]
        or (one[0] is None) != (other[0] is None)
    ):
        return False
    if one[0] is None:
        return True
    sample = SAMPLES / one[1] if one[2] == SHARE and one[1] else 0.0
    return abs(one[0] - other[0]) <= max(RELATIVE * abs(one[0]), ABSOLUTE, sample)
