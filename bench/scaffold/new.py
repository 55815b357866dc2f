"""Writes a new plugin: real and small code of the family asked for, which passes its own check."""

from __future__ import annotations

import ast
import datetime
import keyword
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from string import Template

from bench.contracts.card import Card
from bench.errors import UserError
from bench.registry import SINGULAR
from bench.scaffold.sorts import SORTS, Singular, Sort

_SUBJECTS = """
    subjects = ("{subject}",)
"""


def write(
    singular: Singular,
    name: str,
    sort: str,
    output: Path,
    *,
    single_file: bool = False,
    taken: Iterable[str] = (),
) -> list[Path]:
    """Writes the plugin ``name`` into ``output``: a folder of that name, or one file. Returns what
    was written, the module first.

    ``sort``: a key of :data:`~bench.scaffold.sorts.SORTS`; ``taken``: names that other plugins
    have. Raises :class:`~bench.errors.UserError` for a name that no plugin may have, that is taken,
    or whose folder or file is there already.
    """
    check_name(name, taken)
    module = f"castlewalls_{name}"
    words = _words(singular, name, SORTS[singular][sort], module)
    code = filled(f"{SORTS[singular][sort].template}.py", words)
    if single_file:
        texts = {Path(f"{name}.py"): code}
    else:
        folder = Path(name)
        texts = {folder / f"{module}.py": code} | {
            folder / target: filled(template, words)
            for target, template in (
                (f"test_{name}.py", "test.py"),
                ("pyproject.toml", "pyproject.toml"),
                ("README.md", "README.md"),
                ("LICENSE", "LICENSE"),
            )
        }
    return write_new(output, texts)


def check_name(name: str, taken: Iterable[str]) -> None:
    """Raises :class:`~bench.errors.UserError` unless ``name`` is one that a plugin may have, and
    no other has.
    """
    try:
        Card(name=name, summary="")
    except ValueError as error:
        raise UserError(str(error)) from error
    if name == "none":
        raise UserError("the name 'none' is reserved for the controls")
    if keyword.iskeyword(name) or name.startswith("_"):
        raise UserError(
            f"a plugin's name must be no keyword of Python and not begin with _, got {name!r}"
        )
    if name in taken:
        raise UserError(f"a plugin is named {name!r} already (castlewalls show {name})")


def _words(singular: Singular, name: str, sort: Sort, module: str) -> dict[str, str]:
    subjects = sort.subjects or "training rows and generated images"
    group = next(group for group, one in SINGULAR.items() if one == singular)
    return {
        "name": name,
        "module": module,
        "cls": _class_name(name, sort),
        "distribution": module.replace("_", "-"),
        "group": group,
        "article": f"{'an' if singular == 'attack' else 'a'} {singular}",
        "choice": f"--{group}",
        "suite": sort.suite,
        "base": sort.base,
        "subjects": {"rows": "training rows", "images": "generated images"}.get(subjects, subjects),
        "subjects_line": _SUBJECTS.format(subject=sort.subjects) if sort.subjects else "",
        "year": str(datetime.date.today().year),
    }


def filled(template: str, words: dict[str, str]) -> str:
    """The template of that name with ``words`` in their places."""
    source = resources.files("bench.scaffold") / "templates" / f"{template}.template"
    return Template(source.read_text(encoding="utf-8")).substitute(words)


def camel_case(name: str) -> str:
    """``clip_more`` -> ``ClipMore``."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _class_name(name: str, sort: Sort) -> str:
    """As :func:`camel_case`, with a word more where the module has that name already."""
    camel = camel_case(name)
    blanks = dict.fromkeys(("name", "cls", "subjects", "year"), "0") | {"subjects_line": ""}
    code = filled(f"{sort.template}.py", blanks | {"cls": "X", "base": sort.base})
    imported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    return f"{camel}Plugin" if camel in imported or keyword.iskeyword(camel) else camel


def write_new(
    output: Path, texts: dict[Path, str], ready: Mapping[Path, Path] | None = None
) -> list[Path]:
    """Writes ``texts`` into ``output``, or nothing if any of it, or its folder, is there, or if the
    disk is full. ``ready``: what is moved along with them, a file or a folder each.
    """
    tops = [Path(one) for one in dict.fromkeys(path.parts[0] for path in texts)]
    for top in tops:
        if os.path.lexists(output / top):
            raise UserError(
                f"{output / top} is there already, and nothing is overwritten; choose another "
                f"name, or --output DIR"
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
        # All of it is written before any of it is in its place.
        with tempfile.TemporaryDirectory(prefix=".castlewalls-", dir=output) as scratch:
            for path, text in texts.items():
                made = scratch / path
                made.parent.mkdir(parents=True, exist_ok=True)
                made.write_text(text, encoding="utf-8", newline="\n")
            for path, source in (ready or {}).items():
                shutil.move(str(source), str(scratch / path))
            for top in tops:
                os.rename(scratch / top, output / top)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
    return [output / path for path in texts]
