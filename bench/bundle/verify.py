"""``castlewalls verify``: whether a bundle is whole (level 1), and complete and consistent in
itself and with what was published (level 2). It runs no model and never imports the plugin.

A bundle whose numbers, witnesses and hashes were all invented together passes both levels: only
running cells again could tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.bundle import bag
from bench.bundle.integrity import Contents, read_contents

Status = Literal["ok", "refused", "doubtful", "not checked"]
#: Lines of one check that are written out.
LINES = 5


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``level``: the level the check belongs to; ``lines``: what was seen, or each refusal."""

    level: int
    check: str
    title: str
    status: Status = "ok"
    lines: tuple[str, ...] = ()

    def printed(self) -> list[str]:
        """For a terminal: one line, and one for each refusal."""
        head = f"{self.status.upper() if self.status == 'refused' else self.status:<12}"
        first = f"{head} {self.level} {self.title}"
        if self.status == "ok":
            return [": ".join([first, *self.lines])]
        return [first, *(f"{'':<12}   {line}" for line in self.lines)]


@dataclass(kw_only=True)
class Verification:
    """``level``: the highest that is reached whole, 0 for none; ``sha256``: of the bundle's
    manifest, by which it is known.
    """

    bundle: str
    sha256: str = ""
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def level(self) -> int:
        """Every check of it and of those below passed."""
        refused = {one.level for one in self.verdicts if one.status in ("refused", "not checked")}
        return min([*refused, 3]) - 1

    @property
    def passed(self) -> bool:
        """Whether no check refuses the bundle."""
        return not any(one.status == "refused" for one in self.verdicts)

    def summary(self) -> str:
        """The last line."""
        refused = sum(one.status == "refused" for one in self.verdicts)
        if refused:
            checks = "1 check refuses" if refused == 1 else f"{refused} checks refuse"
            return f"{checks} {self.bundle}; level {self.level} of 2"
        return f"level {self.level} of 2 is reached: {self.sha256}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        verdicts = [asdict(one) for one in self.verdicts]
        return {
            "bundle": self.bundle,
            "sha256": self.sha256,
            "level": self.level,
            "passed": self.passed,
            "checks": verdicts,
        }


Listener = Callable[[Verdict], None]


def verify(
    folder: Path,
    suite: str = "",
    published: Path | None = None,
    on_verdict: Listener = lambda verdict: None,
) -> Verification:
    """Every check of a bundle, level by level; level 2 only of what passed level 1.

    ``suite``: the file of a suite that does not come with castlewalls; ``published``: the results
    whose controls it must agree with, of castlewalls itself unless named. Raises
    :class:`~bench.errors.UserError` for what is no bundle at all.
    """
    read = bag.read_bag(folder)
    result = Verification(bundle=str(folder))
    if bag.MANIFEST in read.files:
        result.sha256 = bag.sha256(read.files[bag.MANIFEST])

    def note(verdict: Verdict) -> None:
        result.verdicts.append(verdict)
        on_verdict(verdict)

    files = f"{len(read.files)} files, {sum(map(len, read.files.values())) / 1000:.0f} kB"
    note(_verdict(1, "files", "plain files below the folder", read.faults["files"], files))
    if read.faults["files"]:
        return result
    note(_verdict(1, "hashes", "BagIt manifests", read.faults["hashes"], "every file is listed"))
    if read.faults["hashes"]:
        return result
    contents = read_contents(read, suite)
    for check, title in LEVEL_1:
        note(_verdict(1, check, title, contents.faults[check], contents.seen.get(check, "")))
    if not result.passed:
        return result
    _level_2(contents, published, note)
    return result


LEVEL_1 = (
    ("json", "well-formed JSON"),
    ("records", "records of this schema"),
    ("plugin", "the plugin's source"),
    ("witnesses", "witnesses, readable"),
    ("protocol", "the protocol of the suite"),
)


def _level_2(contents: Contents, published: Path | None, note: Listener) -> None:
    from bench.bundle import consistency

    for check in consistency.CHECKS:
        faults, seen = check.run(contents)
        note(_verdict(2, check.name, check.title, faults, seen))
    status, lines = consistency.held_against(contents, published)
    note(
        Verdict(
            level=2, check="controls", title="controls as published", status=status, lines=lines
        )
    )
    if doubts := consistency.doubts(contents):
        title = "what to know of it"
        note(Verdict(level=2, check="doubts", title=title, status="doubtful", lines=doubts))


def _verdict(level: int, check: str, title: str, faults: Sequence[str], seen: str = "") -> Verdict:
    if not faults:
        return Verdict(level=level, check=check, title=title, lines=(seen,) if seen else ())
    lines = [*faults[:LINES]]
    if len(faults) > LINES:
        lines.append(f"{len(faults) - LINES} more like these")
    return Verdict(level=level, check=check, title=title, status="refused", lines=tuple(lines))
