"""The process that opens a pickle of weights and writes its tensors as safetensors to standard
output: ``python -m bench.importing.pickles_child FILE ENTRY``, started by
:mod:`bench.importing.pickles`, isolated.

torch's restricted mode runs nothing that the file names: it makes tensors, numbers, texts and
containers. Trainers leave objects of their own beside the weights (a callback, a configuration);
each becomes an empty one that does nothing. A file that names anything else is refused.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

#: How it ends if the file is refused; the reason is the last line on standard error.
REFUSED = 3
#: Whose objects may stand beside weights, and become empty.
HARMLESS = (
    "accelerate.",
    "argparse.Namespace",
    "collections.",
    "diffusers.",
    "lightning.",
    "lightning_fabric.",
    "numpy.",
    "omegaconf.",
    "pathlib.",
    "pytorch_lightning.",
    "torch.optim.",
    "torchmetrics.",
    "transformers.",
    "typing.Any",
)
#: Of collections that are searched for weights, one inside the other.
_DEPTH = 4


class Refused(Exception):
    """What is wrong with the file, in one line."""


class Emptied:
    """Stands in for an object that is no tensor: takes any state, keeps none."""

    def __init__(self, *arguments: object, **options: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def main() -> NoReturn:
    """Entry point."""
    private = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no tensor
    try:
        data = converted(sys.argv[1], sys.argv[2])
    except Refused as error:
        print(str(error), file=sys.stderr, flush=True)
        os._exit(REFUSED)
    with os.fdopen(private, "wb") as out:
        out.write(data)
    os._exit(0)


def converted(file: str, entry: str) -> bytes:
    """The tensors of ``file`` as the bytes of a safetensors file. ``entry``: of which collection in
    it, as ``state_dict`` or ``4``; empty: of the one that holds most of them.
    """
    import torch
    from safetensors.torch import save

    zipped = zipfile.is_zipfile(file)
    if zipped:
        _refuse_compressed(file)
    try:
        with _emptying(file) if zipped else nullcontext():
            opened = torch.load(  # noqa: TID251 - the one place, restricted and isolated
                file, map_location="cpu", weights_only=True, mmap=zipped
            )
    except Refused:
        raise
    except Exception as error:  # a damaged pickle can make it raise anything
        raise Refused(_why(error)) from error
    tensors = _chosen(dict(_collections(opened)), entry)
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise Refused(f"{name} must be a dense tensor")
    return save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()})


def _refuse_compressed(file: str) -> None:
    """torch writes its archives uncompressed: another may be small and unpack to any size."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refused("it is a compressed archive, which no release of torch writes")
    if sum(entry.file_size for entry in entries) > os.path.getsize(file):
        raise Refused("its archive says that it holds more than the file does")


def _emptying(file: str) -> AbstractContextManager[Any]:
    """Makes the harmless objects that ``file`` names empty; refuses it for any other."""
    import torch

    if not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):  # before 2.6
        return nullcontext()  # and torch refuses whatever is no tensor
    named = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(file)))
    if other := [name for name in named if not name.startswith(HARMLESS)]:
        raise Refused(f"it names {other[0][:80]}, which no weights need; nothing of it was run")
    for name in named:
        print(f"left out: {name[:120]}", file=sys.stderr, flush=True)
    stand_ins: list[Any] = [(type("Emptied", (Emptied,), {}), name) for name in named]
    return torch.serialization.safe_globals(stand_ins)


def _collections(value: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Each collection in ``value`` that holds tensors by name, and where it is."""
    import torch

    items: Iterator[tuple[Any, Any]] | None = None
    if isinstance(value, Mapping):
        tensors = {
            name: tensor
            for name, tensor in value.items()
            if isinstance(name, str) and isinstance(tensor, torch.Tensor)
        }
        if tensors:
            yield path, tensors
        items = iter(value.items())
    elif isinstance(value, (list, tuple)):
        items = iter(enumerate(value))
    if items is None or depth >= _DEPTH:
        return
    for name, inner in items:
        yield from _collections(inner, f"{path}.{name}" if path else str(name), depth + 1)


def _chosen(collections: Mapping[str, Mapping[str, Any]], entry: str) -> Mapping[str, Any]:
    if not collections:
        raise Refused("it holds no tensors by name")
    largest = max(collections, key=lambda path: len(collections[path]))
    chosen = entry or largest
    if chosen not in collections:
        some = ", ".join(repr(path) for path in list(collections)[:6])
        raise Refused(f"it has no entry {entry[:80]!r} with tensors (it has: {some})")
    rivals = [
        path
        for path in collections
        if path != chosen and len(collections[path]) == len(collections[chosen]) and not entry
    ]
    if rivals:
        raise Refused(
            f"it holds weights twice, in {chosen!r} and {rivals[0]!r}: say which (--entry)"
        )
    return collections[chosen]


def _why(error: Exception) -> str:
    """In our words: torch's own advise to open the file without the restriction."""
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it names {named[1][:80]}, which no weights need; nothing of it was run"
    return f"it is damaged, or no file of weights that torch wrote ({type(error).__name__})"


if __name__ == "__main__":
    main()
