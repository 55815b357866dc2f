"""Markdown to HTML that a strict page can hold: no raw HTML, no style, no address but those of the
site and of the web; pictures become part of the page.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from bench.errors import UserError
from leaderboard.sound import visible

#: Pictures that a page can hold, by ending, and bytes of one and of a page's text.
_PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}
MAX_PICTURE, MAX_TEXT = 4 * 2**20, 4 * 2**20
_WEB = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Prose:
    """``name``: of the file without its ending; ``title``: of its first heading."""

    name: str
    title: str
    html: Markup


def read_prose(path: Path, names: Collection[str]) -> Prose:
    """A Markdown file as HTML. ``names``: of the pages beside it, which it may link to. A link to
    anything else that is not on the web stays text, and so does a picture that is not a small file
    of the page's own folder or below. Raises :class:`UserError` for a file that cannot be read.
    """
    try:
        text = _content(path, path.parent, MAX_TEXT).decode("utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path} cannot be read: {reason}") from error
    markdown = MarkdownIt("commonmark").enable("table")
    tokens = markdown.parse(visible("\n".join(text.splitlines())))
    title = _headings(tokens) or path.stem
    for token in tokens:
        if token.children is not None:
            token.children = list(_inline(token.children, path.parent, names))
        if token.type in ("th_open", "td_open") and (style := token.attrs.pop("style", "")):
            token.attrSet("class", str(style).partition(":")[2])
        if token.type == "html_block":
            _hide(token)
    html: str = markdown.renderer.render(tokens, markdown.options, {})
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table class="plain">')
    return Prose(path.stem, title, Markup(html.replace("</table>", "</table></div>")))


def _headings(tokens: list[Token]) -> str:
    """Gives each an id as GitHub does, which the pages' own links use; returns the first one's
    text.
    """
    uses: Counter[str] = Counter()
    first = ""
    for token, inline in zip(tokens, tokens[1:], strict=False):
        if token.type == "heading_open":
            text = "".join(child.content for child in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            token.attrSet("id", f"{slug}-{uses[slug]}" if uses[slug] else slug)
            uses[slug] += 1
            first = first or text
    return first


def _inline(children: list[Token], folder: Path, names: Collection[str]) -> Iterator[Token]:
    """What is left of a line's tokens."""
    linked: list[bool] = []
    for token in children:
        if token.type == "link_open":
            address = _address(str(token.attrs.get("href", "")), names)
            token.attrs = {"href": address, "rel": "noopener noreferrer"}
            linked.append(bool(address))
            if not address:
                continue
        elif token.type == "link_close" and not linked.pop():
            continue
        elif token.type == "image":
            source = _picture(str(token.attrs.get("src", "")), folder)
            if source:
                token.attrSet("src", source)
            else:
                token.type, token.tag, token.children = "text", "", None
        elif token.type == "html_inline":
            _hide(token)
        yield token


def _hide(token: Token) -> None:
    """Raw HTML is shown as text, a comment not at all."""
    comment = token.content.strip().startswith("<!--") and token.content.strip().endswith("-->")
    token.type, token.content = "text", "" if comment else token.content


def _address(href: str, names: Collection[str]) -> str:
    """Where a link of the Markdown leads on the site; empty if nowhere."""
    if href.startswith("#") or _WEB.match(href):
        return href
    page, sign, part = href.partition("#")
    if page.endswith(".md") and page.removesuffix(".md") in names:
        return f"{page.removesuffix('.md')}.html{sign}{part}"
    return ""


def _picture(source: str, folder: Path) -> str:
    """The picture as a data address; empty if it is none that may be shown."""
    path = PurePosixPath(unquote(source))
    kind = _PICTURES.get(path.suffix.lower())
    if kind is None or path.is_absolute() or ".." in path.parts or ":" in source:
        return ""
    try:
        data = _content(folder / path, folder, MAX_PICTURE)
    except (OSError, ValueError):
        return ""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _content(path: Path, folder: Path, most: int) -> bytes:
    """Of a plain file that is inside the folder once links are followed."""
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise ValueError("it is no file of its folder")
    if path.stat().st_size > most:
        raise ValueError(f"it has more than {most} bytes")
    return path.read_bytes()
