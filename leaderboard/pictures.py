"""The records' pictures on the page: each once, however many cells show it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from bench.results import read_plain
from leaderboard.sound import cut

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG as a data URI, shown at ``width`` x ``height`` CSS pixels, of which it may have fewer
    itself, or why there is none (``problem``).
    """

    name: str
    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def folded(self) -> bool:
        """Whether it is a row of images that is cut in the middle and drawn as two, twice as
        large.
        """
        across = self.width // max(1, self.height)
        return across >= 6 and across % 2 == 0


class Album:
    """Classes for pictures. Their style sheet stands at the page's end: a browser decodes a picture
    when something visible asks for it, and not before. The page's policy allows no style attribute.
    """

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._rules: dict[str, str] = {}

    def classes(self, picture: Picture, less: Picture | None = None, *, flat: bool = False) -> str:
        """Of an element that shows ``picture``, or with ``less`` the difference of the two.
        ``flat``: at its own width, never folded.
        """
        fold = picture.folded and not flat
        width, height = picture.width, picture.height * (4 if fold else 1)
        classes = [
            self._rule(f"r{width}-{height}", f"aspect-ratio:{width}/{height}"),
            self._rule(f"a{self._name(picture)}", f"--a:var(--p{self._name(picture)})"),
        ]
        if flat:
            classes.append(self._rule(f"px{width}", f"width:{width}px"))
        if fold:
            classes.append("fold")
        if less:
            classes.append(self._rule(f"b{self._name(less)}", f"--b:var(--p{self._name(less)})"))
            classes.append("diff")
        return " ".join(classes)

    def style(self) -> Markup:
        """The style sheet."""
        # A URI is base64 that was made here, all else are numbers.
        pictures = ";".join(f"--p{name}:url({uri})" for uri, name in self._names.items())
        rules = "".join(f".{name}{{{rule}}}" for name, rule in self._rules.items())
        return Markup(f"dialog{{{pictures}}}{rules}" if self._names else "")

    def _name(self, picture: Picture) -> int:
        return self._names.setdefault(picture.uri, len(self._names))

    def _rule(self, name: str, rule: str) -> str:
        self._rules[name] = rule
        return name


#: Bytes of a picture in a store, and letters of its path where it is named.
_LARGEST, _PATH = 16 * 2**20, 200
#: By what a picture may have been enlarged, and pixels of the largest that is looked at for it.
_ENLARGED, _REDUCED = (4, 3, 2), 2**24


def embedded(folder: Path, name: str, path: str) -> Picture:
    """The picture at ``path`` below a record's folder, at its own size."""
    where = cut(path, _PATH)
    try:
        file = (folder / path).resolve()
        if not file.is_relative_to(folder.resolve()):
            problem = f"{where} lies outside the record's folder and was not read"
            return Picture(name=name, problem=problem)
        data = read_plain(file, _LARGEST)
    except FileNotFoundError:
        return Picture(name=name, problem=f"{where} is missing from the store")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Picture(name=name, problem=f"{where} cannot be read: {why}")
    if not data.startswith(_PNG) or len(data) < 24:
        return Picture(name=name, problem=f"{where} is not a PNG and was not embedded")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    small = _as_drawn(data) if width * height <= _REDUCED else data
    uri = "data:image/png;base64," + base64.b64encode(small).decode("ascii")
    return Picture(name=name, uri=uri, width=width, height=height)


@lru_cache(maxsize=1024)
def _as_drawn(data: bytes) -> bytes:
    """The PNG without the enlargement that a store's pictures have, which the page makes itself:
    two thirds of the letters. As it is, if it has none or does not decode.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.load()
            for factor in _ENLARGED:
                size = (picture.width // factor, picture.height // factor)
                small = picture.resize(size, Image.Resampling.NEAREST) if all(size) else picture
                again = small.resize(picture.size, Image.Resampling.NEAREST)
                if again.tobytes() == picture.tobytes():
                    out = io.BytesIO()
                    small.save(out, "PNG", optimize=True)
                    return min(out.getvalue(), data, key=len)
    except (OSError, SyntaxError, ValueError):
        pass  # The browser says what it makes of it.
    return data
