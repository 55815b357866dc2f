"""To which level each bundle on a board is verified: by its own checks up to level 2, by a
verifier's statement to level 3. Of what was accepted into results, the statement beside it says it,
so that a site of them needs no torch and verifies nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.bundle import bag, statement
from bench.bundle.statement import PLAIN, TOP, VERIFIER
from bench.errors import UserError
from bench.text import one_line

#: The check whose refusal means that the suite or the protocol is another than ours: nothing is
#: known of such a bundle, and it stands apart.
_UNKNOWN = "protocol"

#: The level of a bundle, or why it is refused; and the SHA-256 of its manifest.
_Level = tuple[int | str, str]


def levels_of(
    bundles: Sequence[Path],
    statements: Sequence[Path] = (),
    key: Path | None = None,
    accepted: Path | None = None,
) -> dict[Path, int | str]:
    """By folder, the level of each bundle, or why it is refused. ``statements``: of verifiers whom
    the caller trusts, signed if there is a public ``key``; ``accepted``: the folder of bundles
    whose owner is trusted like that, with his statements beside them. Raises :class:`UserError` for
    what is no such statement, and for one about none of these bundles.
    """
    inside = None if accepted is None else accepted.resolve()
    known: dict[Path, _Level] = {}
    for folder in (bundle.resolve() for bundle in bundles):
        stated = _accepted(folder) if folder.parent == inside else None
        known[folder] = stated or _verified(folder)
    levels = {folder: level for folder, (level, _) in known.items()}
    for path in statements:
        value = statement.read(path, key)
        subject = statement.subject_of(value)
        about = [folder for folder, (_, digest) in known.items() if digest == subject]
        if value["predicateType"] != statement.SVR or not about:
            raise UserError(f"{path} must be of a re-run of one of the bundles, and is not")
        for folder in about:
            if levels[folder] == TOP - 1 and statement.level_of(value) == TOP:
                levels[folder] = TOP
    return levels


def _accepted(folder: Path) -> _Level | None:
    """As the statements beside it say; ``None`` if none is about its manifest as it is now."""
    beside = sorted(folder.parent.glob(f"{folder.name}.{VERIFIER}-*{PLAIN}"))
    if not beside:
        return None
    try:
        read = bag.read_bag(folder)
        about = [statement.read(path) for path in beside if path.is_file()]
    except UserError as error:
        return str(error), ""
    if faults := [fault for group in read.faults.values() for fault in group]:
        return f"is not as it was accepted: {faults[0]}", ""
    digest = bag.sha256(read.files[bag.MANIFEST])
    level = max(
        (statement.level_of(one) for one in about if statement.subject_of(one) == digest), default=0
    )
    return (level, digest) if level else None


def _verified(folder: Path) -> _Level:
    from bench.bundle.verify import verify  # plans the suite, which needs torch

    try:
        result = verify(folder)
    except UserError as error:
        return str(error), ""
    except Exception as error:  # no stranger's file takes the others from the board
        return f"it cannot be checked: {type(error).__name__}: {one_line(str(error), 200)}", ""
    refused = [one for one in result.verdicts if one.status == "refused" and one.check != _UNKNOWN]
    level = f"{refused[0].title}: {refused[0].lines[0]}" if refused else result.level
    return level, result.sha256
