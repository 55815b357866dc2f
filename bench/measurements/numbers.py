"""How a number enters a record: with its interval, its sample size and its unit, or not at all,
with a flag that says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bench.measurements.measurement import Measured
from bench.metrics import uncertainty
from bench.metrics.composition import Proportion
from bench.record import SHARE, Flag, Metric

#: The code of a flag that says why a number is missing.
NOT_MEASURED = "not-measured"


def share(
    outcomes: npt.ArrayLike, higher_is_better: bool | None, groups: npt.ArrayLike | None = None
) -> Metric:
    """The share of (n > 0,) outcomes, 0 or 1, with Wilson's interval. ``groups``: (n,) integers,
    equal for samples that belong together; then the interval counts n / deff samples, and
    ``effective_n`` says so. Raises ``ValueError`` without outcomes.
    """
    values = np.asarray(outcomes, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"a share needs at least one sample, got shape {values.shape}")
    value = float(values.mean())
    effective = len(values) / uncertainty.design_effect(values, groups)
    low, high = uncertainty.proportion_interval(value * effective, effective)
    return Metric(
        value=value,
        ci_low=low,
        ci_high=high,
        n=len(values),
        effective_n=None if groups is None else effective,
        unit=SHARE,
        higher_is_better=higher_is_better,
    )


def add_rate(
    measured: Measured,
    name: str,
    outcomes: npt.ArrayLike,
    higher_is_better: bool = False,
    groups: npt.ArrayLike | None = None,
) -> Metric:
    """Adds their :func:`share` as ``name``, and the outcomes themselves, with which cells are
    compared sample by sample; gives the share.
    """
    measured.metrics[name] = metric = share(outcomes, higher_is_better, groups)
    measured.series[f"outcomes[{name}]"] = np.asarray(outcomes, dtype=np.float64).tolist()
    return metric


def proportion(ratio: Proportion, higher_is_better: bool | None) -> Metric:
    """A counted share, with its own interval."""
    low, high = ratio.interval()
    return Metric(
        value=ratio.value,
        ci_low=low,
        ci_high=high,
        n=ratio.n,
        unit=SHARE,
        higher_is_better=higher_is_better,
    )


def mean(values: npt.ArrayLike, seed: int, higher_is_better: bool | None, unit: str = "") -> Metric:
    """The mean of (n > 0,) finite values with its bootstrap interval; a single value has none."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"a mean needs at least one sample, got shape {array.shape}")
    low, high = uncertainty.bootstrap_interval(array, seed=seed) if len(array) > 1 else (None, None)
    return Metric(
        value=float(array.mean()),
        ci_low=low,
        ci_high=high,
        n=len(array),
        unit=unit,
        higher_is_better=higher_is_better,
    )


@contextmanager
def if_possible(family: str, flags: list[Flag]) -> Iterator[None]:
    """What cannot be measured on this cell (no sample, no row of a class, no finite value) is left
    out, and a flag about the metrics of ``family`` says why; the cell's other numbers stay.
    Whatever the person could mend, or is out of memory or files, is raised.
    """
    try:
        yield
    except (ValueError, ArithmeticError, np.linalg.LinAlgError) as reason:
        line = " ".join(str(reason).split())
        text = f"not measured, {line or type(reason).__name__}"
        flags.append(Flag(NOT_MEASURED, family, text))
