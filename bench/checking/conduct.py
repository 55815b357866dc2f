"""How a plugin behaves beside what it returns: what it reads, writes, starts and leaves changed.

Each function uses the plugin once and raises :class:`~bench.contracts.checks.Broken`.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.checking import planted
from bench.checking.use import access, lowered, use
from bench.contracts.access import Access
from bench.contracts.checks import Broken
from bench.contracts.entitled import Withheld
from bench.contracts.plugin import Plugin
from bench.contracts.tiny import LEAST
from bench.engine.surroundings import Surroundings
from bench.plugin_file import OURS, Watch, belongings, package_files
from bench.registry import source_of
from bench.text import one_line

#: What Python reports to an audit hook when code reaches out of its process.
_EVENTS = {
    "socket.connect": "opens a network connection",
    "socket.bind": "opens a network port",
    "socket.getaddrinfo": "looks up a host's name",
    "subprocess.Popen": "starts another program",
    "os.system": "starts another program",
    "os.posix_spawn": "starts another program",
    "os.exec": "starts another program",
    "os.fork": "starts another process",
    "os.kill": "sends a signal to a process",
    "os.killpg": "sends a signal to processes",
}
#: Those with a path as their first argument.
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.link")


def results_are_as_declared(plugin: Plugin) -> None:
    """Types, shapes, dtypes, ranges, and no NaN, as a stage demands them."""
    use(lowered(plugin, LEAST))


def only_declared_needs_are_read(plugin: Plugin) -> None:
    """A plugin that catches the error has read it all the same."""
    reads: list[str] = []

    class Watched(Access):
        """Keeps the names of what is asked for and was not declared."""

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            if isinstance(value, Withheld):
                reads.append(f"access.{name} ({value.need!r})")
            return super().__getattribute__(name)

    with suppress(Exception):  # which results_are_as_declared meets too
        use(lowered(plugin, LEAST), lambda asking: Watched(**vars(access(asking))))
    if reads:
        needs = ", ".join(map(repr, sorted(plugin.card.needs))) or "nothing"
        raise Broken(
            f"expected nothing to be read but what the card's needs list ({needs}), got "
            f"{', '.join(dict.fromkeys(reads))}"
        )


def global_state_is_left_alone(plugin: Plugin) -> None:
    """torch's switches, the random generators, the working folder, the environment, and the
    functions of other modules: whoever runs next in the process would meet them.
    """
    warm_up()
    with leaving_all_as_it_was() as changes, suppress(Exception, SystemExit):
        use(lowered(plugin, LEAST))
    if changes:
        raise Broken(f"expected nothing global to change, got {'; '.join(changes)}")


@cache
def warm_up() -> None:
    """Whatever a first draw, a first gradient and a first score set up in the libraries is no
    plugin's doing.
    """
    model = planted.generator("planted", False)
    drawn = planted.drawn(model, 1)
    optimizer = torch.optim.Adam(model.unet.parameters())
    model.predict_noise(drawn, torch.tensor([1])).mean().backward()
    optimizer.step()
    planted.classifier()(drawn)


@contextmanager
def leaving_all_as_it_was() -> Iterator[list[str]]:
    """Yields a list that holds, after the block, what it changed, in words; puts it back."""
    changes: list[str] = []
    functions = _functions()
    with restoring(changes):
        yield changes
    changes += _patched(functions)


@contextmanager
def restoring(changes: list[str]) -> Iterator[None]:
    """Puts switches and random generators back after the block, and adds to ``changes`` which had
    moved.
    """
    before, streams = Surroundings(), _streams()
    state = random.getstate(), _numpy_stream().state, torch.get_rng_state()
    try:
        yield
    finally:
        moved = [name for name, value in _streams().items() if value != streams[name]]
        if moved:
            changes.append(f"the global random state of {' and '.join(moved)}")
        if words := before.changes():
            changes.append(words)
        before.restore()
        random.setstate(state[0])
        _numpy_stream().state = state[1]
        torch.set_rng_state(state[2])


def _streams() -> dict[str, str]:
    """A hash of each global random generator's state."""
    numpy = _numpy_stream().state
    states = {
        "random": repr(random.getstate()),
        "numpy.random": repr([numpy["state"]["key"].tolist(), numpy["state"]["pos"]]),
        "torch": repr(torch.get_rng_state().tolist()),
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in states.items()}


def _numpy_stream() -> Any:
    """The stream behind ``numpy.random.rand`` and its like."""
    return np.random.mtrand._rand._bit_generator


_Functions = dict[tuple[str, str], Any]
#: The modules whose functions a plugin has no business with replacing.
_PATCHABLE = ("bench", "torch", "numpy", "sklearn", "scipy", "random", "os", "leaderboard")


def _functions() -> _Functions:
    """Every function and class of the modules that are loaded, by module and name."""
    functions: _Functions = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PATCHABLE and module is not None:
            for word, value in list(vars(module).items()):
                if callable(value):
                    functions[name, word] = value
    return functions


def _patched(before: _Functions) -> list[str]:
    """Names of functions that are others now; each is put back."""
    names = []
    for (name, word), value in before.items():
        module = sys.modules.get(name)
        if module is not None and vars(module).get(word) is not value:
            setattr(module, word, value)
            names.append(f"{name}.{word} was replaced")
    return names[:5] + ([f"{len(names) - 5} more"] if len(names) > 5 else [])


def it_keeps_to_itself(plugin: Plugin) -> None:
    """No network, no other process, no file outside the temporary folder; and of its own folder no
    file that a result's key does not hold.
    """
    warm_up()
    source = source_of(plugin)
    with Watch(source.parent) as watch, reaching_out() as events, suppress(Exception):
        use(lowered(plugin, LEAST))
    if events:
        raise Broken(f"expected work within its own process, but it {events[0]}")
    if str(source).startswith(OURS):
        return
    unknown = sorted(map(str, watch.read - set(_held(plugin))))
    if unknown:
        raise Broken(
            f"expected every file it reads among its card's files, got {one_line(unknown[0])}"
        )


def _held(plugin: Plugin) -> list[Path]:
    """The files that the keys of the plugin's results hold."""
    module = inspect.getmodule(type(plugin))
    if module is not None and "." in module.__name__:
        return package_files(module.__name__)
    return belongings(source_of(plugin), plugin.card.files)


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_listening: list[list[str]] = []
_hooked: list[bool] = []


@contextmanager
def reaching_out() -> Iterator[list[str]]:
    """Yields a list of what code within the block does outside its process, in words."""
    tempfile.gettempdir()  # the first time it writes under a lock of its own, which the hook wants
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)
    events: list[str] = []
    _listening.append(events)
    try:
        yield events
    finally:
        _listening.remove(events)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listening:
        return
    words = _EVENTS.get(event, "")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        words = _outside(arguments[0], "writes")
    elif event in _CHANGES:
        words = _outside(arguments[0], "changes")
    if words:
        for events in _listening:
            events.append(words)


def _outside(name: Any, does: str) -> str:
    """A file outside the temporary folder and Python's caches, in words; empty if it is none."""
    try:
        path = os.path.abspath(os.fsdecode(name))
    except (TypeError, ValueError):
        return ""
    if path == os.devnull or path.startswith(tempfile.gettempdir()) or "__pycache__" in path:
        return ""
    return f"{does} the file {one_line(path, 120)}"
