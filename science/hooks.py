"""What a section shows that no claims file can say: a sheet of pictures, a table by epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from leaderboard.aggregate import Interval
from leaderboard.names import UNKNOWN
from science.drawing import Curve, chart
from science.findings import Line, series_by_epoch
from science.pictures import grid
from science.table import ABSENT, Plot, interval_cell, seeds, value_text

if TYPE_CHECKING:
    from science.scene import Scene


def samples(scene: Scene) -> dict[str, Any]:
    """The records' own pictures: one row a trigger and guidance weight, one column a treatment."""
    cells, axes = scene.spec.cells, scene.spec.axes
    modes = [bound["mode"] for bound in scene.axis(axes["mode"])]
    rows = [
        (
            f"{bound['pattern']}, w = {bound['w']:g}",
            [plain, *(scene.line(cells["clipped"], {**bound, "mode": mode}) for mode in modes)],
        )
        for bound in scene.bindings((axes["pattern"], axes["w"]), {})
        if (plain := scene.line(cells["plain"], bound))
    ]
    sheet = grid(rows, ("no defense", *modes))
    title = (
        f"Samples of the adversary's class, by trigger and guidance: no defense, {', '.join(modes)}"
    )
    return {"plots": (("samples", title, sheet),) if sheet else ()}


#: Three significant digits, as every error has.
_ERROR = UNKNOWN.words("inversion_mse")
BASELINES = (
    ("constant black", "inversion_mse_black"),
    ("best constant image", "mse[constant]"),
    ("plain clean samples", "mse[clean]"),
)


def anp(scene: Scene) -> dict[str, Any]:
    """The reconstruction's MSE epoch by epoch, of the backdoored and the honest model, as a table
    and a plot.
    """
    ref = scene.spec.cells["pruned"]
    pairs = []
    for bound in scene.bindings((scene.spec.axes["rate"],), {}):
        control = scene.line(replace(ref, honest=True), bound)
        pairs.append((f"{bound['rate']:g}", scene.line(ref, bound), control))
    first = next((line for _, line, _ in pairs if line), None)
    epochs = max((len(_epochs(line)) for _, line, _ in pairs), default=0)
    rows = []
    for rate, *both in pairs:
        for name, line in zip((rate, f"{rate}, honest model"), both, strict=True):
            values = [interval_cell(_ERROR, interval) for _, interval in _epochs(line)][:epochs]
            values += [ABSENT] * (epochs - len(values))
            ends = value_text(line, "inversion_mse_best"), value_text(line, "inversion_mse_last")
            rows.append((name, *ends, *values, seeds(line)))
    if first is not None:
        for name, metric in BASELINES:
            rows.append(
                (f"*{name}*", *[value_text(first, metric)] * 2, *[ABSENT] * epochs, seeds(first))
            )
    columns = (
        "learning rate",
        "best epoch",
        "last epoch",
        *(f"epoch {epoch + 1}" for epoch in range(epochs)),
        "seeds",
    )
    return {"columns": columns, "rows": tuple(rows), "plots": _by_epoch(pairs, first)}


def _by_epoch(
    pairs: Sequence[tuple[str, Line | None, Line | None]], first: Line | None
) -> tuple[Plot, ...]:
    curves = [
        Curve(f"learning rate {rate}{words}", index, _epochs(line), dashed=bool(words))
        for words in ("", ", honest model")
        for index, (rate, line) in enumerate(
            (rate, control if words else line) for rate, line, control in pairs
        )
        if _epochs(line)
    ]
    levels = [
        (name, interval.mean)
        for name, metric in BASELINES
        if first and (interval := first.interval(metric))
    ]
    title = "Reconstruction MSE of ANP by epoch and learning rate"
    return (
        (("anp", title, chart(curves, levels, "epoch", "MSE to the target", title)),)
        if curves
        else ()
    )


def _epochs(line: Line | None) -> list[tuple[float, Interval]]:
    return series_by_epoch(line, "inversion_mse") if line else []


#: Name in a claims file -> what makes those fields of the section that it replaces.
HOOKS: dict[str, Callable[[Scene], dict[str, Any]]] = {"anp": anp, "samples": samples}
