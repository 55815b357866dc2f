"""Turns a pickle of weights (``.bin``, ``.pt``, ``.pth``, ``.ckpt``) into safetensors without
opening it here.

A pickle can run code when it is opened. Another process opens it, in torch's restricted mode, and
isolated as a third party's plugin is (:mod:`bench.engine.isolation`): it sees that file and what
Python needs, reaches no network, and writes nothing. Its answer comes through a pipe and is a
safetensors file, or is refused.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bench.diffusion.checkpoint import header_of
from bench.engine.environment import of_a_worker
from bench.engine.isolation import READING, start_reading
from bench.engine.launch import Process, launch
from bench.errors import UserError, no_file
from bench.importing.pickles_child import REFUSED
from bench.text import one_line

#: Endings of files that hold pickles.
ENDINGS = (".bin", ".ckpt", ".pt", ".pth")
_START_SECONDS, _BYTES_A_SECOND = 120.0, 20e6
_BLOCK = 2**20


def to_safetensors(file: Path, output: Path, entry: str = "") -> list[str]:
    """Writes the tensors of the pickle ``file`` to ``output``, in float32 or whatever type they
    have. Returns the names of what was left out, since it is no tensor.

    ``entry``: which collection in the file, where it holds several, as ``state_dict``. Raises
    :class:`UserError` for a file that names code, holds no tensors by name, or cannot be read.
    """
    file = file.resolve()
    if not file.is_file():
        raise UserError(f"{file}: {no_file(file)}")
    size = file.stat().st_size
    partial = output.with_name(f"{output.name}.part")
    try:
        messages = _converse(file, partial, entry, size)
        header_of(partial)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    marker = "left out: "
    return [line.removeprefix(marker) for line in messages if line.startswith(marker)]


def _converse(file: Path, partial: Path, entry: str, size: int) -> list[str]:
    """Writes what the other process answers to ``partial``; what it reported beside."""
    # The tensors are in memory three times: as mapped, as copied, and as written.
    limits = replace(READING, memory=max(READING.memory, 3 * size + 2**31))
    with tempfile.TemporaryDirectory(prefix="castlewalls-pickle-") as scratch:
        environment = of_a_worker(1)
        command = ["-m", "bench.importing.pickles_child", str(file), entry]
        config = start_reading(command, environment, scratch, [file], limits)
        with open(Path(scratch, "messages"), "w+b") as messages:
            process = launch(config, environment, stderr=messages)
            seconds = _START_SECONDS + size / _BYTES_A_SECOND
            watch = threading.Timer(seconds, _end, [process])
            watch.start()
            try:
                _receive(process, partial, file, size)
                code = process.wait()
            finally:
                overdue = watch.finished.is_set()
                watch.cancel()
                _end(process)
            messages.seek(0)
            lines = messages.read(2**16).decode(errors="replace").splitlines()
    if overdue:
        raise UserError(f"{file}: reading it took longer than {seconds:.0f} s")
    if code == REFUSED:
        raise UserError(f"{file}: {one_line(lines[-1] if lines else 'it was refused')}")
    if code:
        raise UserError(f"{file}: the process that read it ended with {code}")
    return [one_line(line) for line in lines]


def _end(process: Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _receive(process: Process, partial: Path, file: Path, size: int) -> None:
    """No more than the file could hold: its size, twice if weights share memory, and a header."""
    assert process.stdout is not None
    most = 2 * size + 2**24
    with open(partial, "wb") as out:
        while block := process.stdout.read(_BLOCK):
            if out.tell() + len(block) > most:
                raise UserError(f"{file}: its tensors take more than the file holds")
            out.write(block)
