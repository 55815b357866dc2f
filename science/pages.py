"""The pages that hold the papers' claims against the shipped science suites, and how they are
written.

Each page is a pure function of the records (and of which figures of other scripts lie beside it):
the same store gives the same bytes. Plots are files in a folder beside the page that bears its
name.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from bench.errors import UserError
from bench.record import Run, read_runs
from science.page import render
from science.scene import Scene
from science.spec import PageSpec, read_page, read_shared

#: Beside a page's plots: the versions of what drew them.
DRAWN = "drawn-by.json"
CLAIMS = Path(__file__).parent / "claims"
SHARED = read_shared(CLAIMS / "shared.yaml")
BADDIFFUSION, POISON, CLIPPING, CLIP_AWARE, UNCONDITIONAL, FASHION = PAGES = tuple(
    read_page(CLAIMS / folder, SHARED)
    for folder in ("baddiffusion", "poison", "clipping", "clip-aware", "unconditional", "fashion")
)


def plots(page: PageSpec) -> tuple[str, ...]:
    """Every file that the page may draw beside it."""
    return tuple(file for section in page.sections for file in Scene(section, SHARED, {}).files())


def build(store: Path, output: Path, pages: Sequence[PageSpec] = PAGES) -> list[Path]:
    """:func:`write` of the runs in a store. Raises ``UserError`` for a store without runs."""
    if not (store / "runs").is_dir():
        raise UserError(
            f"{store} holds no runs yet; `castlewalls run science-rates --store {store}` makes "
            f"the first"
        )
    return write(read_runs(store), output, pages)


def write(runs: Sequence[Run], output: Path, pages: Sequence[PageSpec] = PAGES) -> list[Path]:
    """Writes the pages and, in a folder named like each, its plots; removes plots that are no
    longer drawn. Raises ``UserError`` for a place that cannot be written.
    """
    return [
        _write(page, *render(page, SHARED, runs, _beside(output / page.name)), output)
        for page in pages
    ]


def stale(runs: Sequence[Run], output: Path, pages: Sequence[PageSpec] = PAGES) -> list[str]:
    """What below ``output`` is not as the runs would make it now, a line each.

    Plots are compared where this machine has the versions that drew them (:data:`DRAWN`): another
    matplotlib, or another Pillow, gives the same picture in other bytes.
    """
    lines = []
    for page in pages:
        folder = output / page.name
        text, drawn = render(page, SHARED, runs, _beside(folder))
        files: dict[Path, bytes] = {output / f"{page.name}.md": text.encode()}
        files |= {folder / name: _bytes(content) for name, content in drawn.items()}
        alike = _content(folder / DRAWN) == _versions()
        for file, content in files.items():
            there = _content(file)
            if there is None or (file.parent != folder or alike) and there != content:
                lines.append(f"{file} is {'missing' if there is None else 'not what it would be'}")
        lines += [
            f"{folder / name} is no longer drawn"
            for name in plots(page)
            if name not in drawn and (folder / name).exists()
        ]
    return lines


def _versions() -> bytes:
    """What draws the plots here, as :data:`DRAWN` has it."""
    versions = {}
    for package in ("matplotlib", "pillow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return f"{json.dumps(versions, sort_keys=True)}\n".encode()


def _bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def _beside(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _write(page: PageSpec, text: str, drawn: dict[str, str | bytes], output: Path) -> Path:
    file, folder = output / f"{page.name}.md", output / page.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in plots(page):
            if name not in drawn:
                (folder / name).unlink(missing_ok=True)
        for name, content in drawn.items():
            (folder / name).write_bytes(_bytes(content))
        if drawn:
            (folder / DRAWN).write_bytes(_versions())
        else:
            (folder / DRAWN).unlink(missing_ok=True)
        file.write_bytes(text.encode())
    except OSError as error:
        raise UserError(f"cannot write the page to {file}: {error.strerror}") from error
    return file
