"""To which level each bundle on a board is verified: by its own checks up to level 2, by a
verifier's statement to level 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.bundle import statement
from bench.bundle.verify import LEVEL_3, TOP, Verification, verify
from bench.errors import UserError

#: The check whose refusal means that the suite or the protocol is another than ours: nothing is
#: known of such a bundle, and it stands apart.
_UNKNOWN = "protocol"


def levels_of(
    bundles: Sequence[Path], statements: Sequence[Path] = (), key: Path | None = None
) -> dict[Path, int | str]:
    """By folder, the level of each bundle, or why it is refused. ``statements``: of verifiers whom
    the caller trusts, signed if there is a public ``key``. Raises :class:`UserError` for what is
    no such statement, and for one about none of these bundles.
    """
    levels: dict[Path, int | str] = {}
    digests: dict[Path, str] = {}
    for folder in (bundle.resolve() for bundle in bundles):
        try:
            result = verify(folder)
        except UserError as error:
            levels[folder] = str(error)
            continue
        levels[folder], digests[folder] = _level(result), result.sha256
    for path in statements:
        value = statement.read(path, key)
        subject = statement.subject_of(value)
        about = [folder for folder, digest in digests.items() if digest == subject]
        if value["predicateType"] != statement.SVR or not about:
            raise UserError(f"{path} must be of a re-run of one of the bundles, and is not")
        properties = value["predicate"].get("properties")
        again = isinstance(properties, list) and LEVEL_3 in properties
        for folder in about:
            if levels[folder] == TOP - 1 and again:
                levels[folder] = TOP
    return levels


def _level(result: Verification) -> int | str:
    refused = [one for one in result.verdicts if one.status == "refused" and one.check != _UNKNOWN]
    return f"{refused[0].title}: {refused[0].lines[0]}" if refused else result.level
