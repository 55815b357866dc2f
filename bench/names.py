"""One sentence for every misspelt name: what it was, what it may be, and the nearest of those."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from bench.errors import UserError


def unknown_name(what: str, name: object, allowed: Iterable[str], where: str = "") -> UserError:
    """A one-line error for ``name``, which is not among ``allowed``.

    ``what``: the kind of thing, e.g. ``attack``; ``where``: the file or entry it was found in, put in front.
    """
    options = sorted(allowed)
    near = [option for option in options if name and option.startswith(str(name))]
    near = near or difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    prefix = f"{where}: " if where else ""
    return UserError(f"{prefix}unknown {what} {name!r}{hint} (allowed: {', '.join(options) or 'none'})")
