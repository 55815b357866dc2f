"""The records' pictures on the page: each once, however many cells show it."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from bench.results import read_plain
from bench.text import one_line

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG as a data URI, shown at ``width`` x ``height`` CSS pixels, or why there is none
    (``problem``).
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

    @property
    def ratio(self) -> str:
        """Width over height as drawn, as CSS writes it."""
        width, height = (self.width, self.height * 4) if self.folded else (self.width, self.height)
        return f"{width}/{height}"


class Album:
    """Names for pictures. They stand in one style sheet at the page's end, as values that a browser
    decodes when something visible asks for them, and not before.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, picture: Picture) -> str:
        """The custom property that holds it."""
        return self._names.setdefault(picture.uri, f"--p{len(self._names)}")

    def style(self) -> Markup:
        """The style sheet."""
        lines = (f"{name}:url({uri})" for uri, name in self._names.items())
        # A URI is base64 that was made here, a name is a number.
        return Markup(f"dialog{{{';'.join(lines)}}}" if self._names else "")


#: Bytes of a picture in a store.
_LARGEST = 16 * 2**20


def embedded(folder: Path, name: str, path: str) -> Picture:
    """The picture at ``path`` below a record's folder, at its own size."""
    file = (folder / path).resolve()
    if not file.is_relative_to(folder.resolve()):
        return Picture(
            name=name, problem=f"{path} lies outside the record's folder and was not read"
        )
    try:
        data = read_plain(file, _LARGEST)
    except FileNotFoundError:
        return Picture(name=name, problem=f"{path} is missing from the store")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        return Picture(name=name, problem=f"{one_line(path, 200)} cannot be read: {why}")
    if not data.startswith(_PNG) or len(data) < 24:
        return Picture(name=name, problem=f"{path} is not a PNG and was not embedded")
    uri = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
    return Picture(
        name=name,
        uri=uri,
        width=int.from_bytes(data[16:20], "big"),
        height=int.from_bytes(data[20:24], "big"),
    )
