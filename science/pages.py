"""The pages that hold the papers' claims against the shipped science suites, and how they are
written.

Each page is a pure function of the records (and of which figures of other scripts lie beside it):
the same store gives the same bytes. Plots are files in a folder beside the page that bears its
name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.errors import UserError
from bench.record import read_runs
from science.page import render
from science.scene import Scene
from science.spec import PageSpec, read_page, read_shared

CLAIMS = Path(__file__).parent / "claims"
SHARED = read_shared(CLAIMS / "shared.yaml")
BADDIFFUSION, POISON, CLIPPING = PAGES = tuple(
    read_page(CLAIMS / folder, SHARED) for folder in ("baddiffusion", "poison", "clipping")
)


def plots(page: PageSpec) -> tuple[str, ...]:
    """Every file that the page may draw beside it."""
    return tuple(file for section in page.sections for file in Scene(section, SHARED, {}).files())


def build(store: Path, output: Path, pages: Sequence[PageSpec] = PAGES) -> list[Path]:
    """Writes the pages and, in a folder named like each, its plots; removes plots that are no
    longer drawn. Raises ``UserError`` for a store without runs or a path that cannot be
    written.
    """
    if not (store / "runs").is_dir():
        raise UserError(
            f"{store} holds no runs yet; `castlewalls run science-rates --store {store}` makes "
            f"the first"
        )
    runs = read_runs(store)
    return [
        _write(page, *render(page, SHARED, runs, _beside(output / page.name)), output)
        for page in pages
    ]


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
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        file.write_bytes(text.encode())
    except OSError as error:
        raise UserError(f"cannot write the page to {file}: {error.strerror}") from error
    return file
