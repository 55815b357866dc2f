"""Progress of a run for the user: bars on a terminal, a line per event elsewhere, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from bench.engine.graph import Stage
from bench.text import plain


class Reporter:
    """Receives the events of a run; every method returns at once. This one prints nothing."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def begin(self, total: int, cached: int) -> None:
        """``total`` stages to make, ``cached`` already in the store."""

    def started(self, key: str, stage: Stage, slot: str) -> None:
        """A stage was handed to a worker."""

    def progress(self, key: str, done: int, total: int, what: str) -> None:
        """A running stage reports how far it is."""

    def done(self, key: str, stage: Stage, seconds: float) -> None:
        """A stage is in the store."""

    def failed(self, key: str, stage: Stage, reason: str, again: bool) -> None:
        """A stage failed; ``again``: it will be tried again."""

    def elsewhere(self, key: str, stage: Stage) -> None:
        """Another run is making this stage."""

    def note(self, text: str) -> None:
        """A line that a person should read."""

    def more(self, count: int) -> None:
        """``count`` additional stages must be made: their results are missing or damaged."""

    def still(self, running: Sequence[tuple[Stage, float]]) -> None:
        """No event for a while: the running stages, each with its seconds so far."""


class Lines(Reporter):
    """One line per event, for logs."""

    def __init__(self, console: Console) -> None:
        self.console, self.count, self.total = console, 0, 0

    def _say(self, text: str) -> None:
        self.console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self._say(text)

    def more(self, count: int) -> None:
        self.total += count

    def still(self, running: Sequence[tuple[Stage, float]]) -> None:
        running_stages = "; ".join(
            f"{stage.describe()} ({seconds / 60:.0f} min)" for stage, seconds in running
        )
        self._say(f"still running: {running_stages}")

    def begin(self, total: int, cached: int) -> None:
        self.total = total
        if total:
            self._say(f"{total} stages to make, {cached} in the store")

    def done(self, key: str, stage: Stage, seconds: float) -> None:
        self.count += 1
        self._say(f"[{self.count}/{self.total}] {stage.describe()} ({seconds:.1f} s)")

    def failed(self, key: str, stage: Stage, reason: str, again: bool) -> None:
        self._say(f"failed: {stage.describe()}: {reason}" + ("; trying again" if again else ""))

    def elsewhere(self, key: str, stage: Stage) -> None:
        self._say(f"another run is making {stage.describe()}; waiting for it")


class Bars(Lines):
    """An overall bar, and one bar for each running stage."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.overall: TaskID | None = None
        self.rows: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def begin(self, total: int, cached: int) -> None:
        super().begin(total, cached)
        if total:
            self.overall = self.bars.add_task("all stages", total=total)

    def more(self, count: int) -> None:
        super().more(count)
        if self.overall is not None:
            self.bars.update(self.overall, total=self.total)

    def still(self, running: Sequence[tuple[Stage, float]]) -> None:
        """Nothing to print: the bars show it."""

    def started(self, key: str, stage: Stage, slot: str) -> None:
        self.rows[key] = self.bars.add_task(f"  {slot} {stage.describe()}", total=None)

    def progress(self, key: str, done: int, total: int, what: str) -> None:
        if key in self.rows:
            self.bars.update(self.rows[key], completed=done, total=total)

    def done(self, key: str, stage: Stage, seconds: float) -> None:
        self.count += 1
        self._drop(key)
        if self.overall is not None:
            self.bars.advance(self.overall)

    def failed(self, key: str, stage: Stage, reason: str, again: bool) -> None:
        super().failed(key, stage, reason, again)
        self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self.rows:
            self.bars.remove_task(self.rows.pop(key))


def reporter_for(console: Console, quiet: bool = False) -> Reporter:
    """Bars on a terminal, lines elsewhere; nothing if ``quiet``. Use it as a context."""
    if quiet:
        return Reporter()
    return Bars(console) if console.is_terminal else Lines(console)


@contextmanager
def step_progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """``progress(done, total, what)`` for one long job: a bar for each ``what`` on a terminal,
    twenty lines elsewhere.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        rows: dict[str, TaskID] = {}

        def progress(done: int, total: int, what: str) -> None:
            if not console.is_terminal:
                if done * 20 // total > (done - 1) * 20 // total:
                    console.print(f"{done}/{total} {what}", highlight=False)
                return
            if what not in rows:
                rows[what] = bars.add_task(what, total=total)
            bars.update(rows[what], completed=done)

        yield progress
