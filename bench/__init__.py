"""castlewalls: a security benchmark for diffusion models.

For notebooks: ``bench.run("digits")`` and ``bench.load_records("store")``, both as a pandas table.
Importing this package loads nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.version import VERSION

if TYPE_CHECKING:
    import pandas as pd

__version__ = VERSION
__all__ = ["__version__", "load_records", "run"]


def run(suite: str, store: str | Path = "store", **options: Any) -> pd.DataFrame:
    """Runs a suite (a shipped name or a file) into ``store`` and returns its records, as
    :func:`load_records` does.

    ``options``: those of :func:`bench.runner.run_suite`, such as ``jobs``, ``seeds``, ``attacks``,
    ``defenses``, ``device``. What is in the store already is not computed again. Raises
    ``bench.errors.UserError`` on bad input; a failed cell is a row, not an exception.
    """
    from bench.runner import run_suite

    outcome = run_suite(suite, store, **options)
    records = load_records(store)
    chosen: pd.DataFrame = records[records["suite"] == outcome.file.stem].reset_index(drop=True)
    return chosen


def load_records(store: str | Path = "store") -> pd.DataFrame:
    """One row per cell of every suite run into ``store``, which may be a folder of results too.

    Columns: ``suite, testbed, attack, probe, sampler, defense`` (labels; no sampler is the
    testbed's own), ``kind, seed, status, reason, protocol, folder``; ``<role>.name`` and
    ``<role>.params`` (JSON) of those five, which with
    ``protocol`` say what is the same (labels need not); ``cost.<name>``; and for each metric
    ``<metric>``, ``<metric>.ci_low``, ``<metric>.ci_high``, ``<metric>.n``. What a record does not
    have is missing (NaN).
    """
    from bench.runner import records_table

    return records_table(Path(store))
