"""The process that imports a third party's plugins and says what they are: ``python -m
bench.card_child``, started isolated by :class:`bench.cards.Room`.

Each line of standard input is a question, each answer a line of standard output: ``{"answer":
...}``, or ``{"refused": a line}`` with what the plugin, or the contract, refuses. Nothing that is
answered is believed on the other side.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, BinaryIO

import torch

from bench import plugin_file
from bench.contracts.attack import Attack
from bench.contracts.data import TrainingSet
from bench.contracts.plugin import Plugin
from bench.described import class_data, instance_data, packed
from bench.errors import UserError
from bench.plugin_file import what_happened
from bench.registry import SINGULAR, check_params, checked, group_of, loaded, plugins_in
from bench.stand_in import MOST_LINES, unpacked
from bench.text import message_of, one_line

_known: dict[str, type[Plugin]] = {}
#: Of a question, what asks about one plugin.
_OF_PLUGINS = ("build", "faults", "sealed")


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """To one question of :mod:`bench.cards` or :mod:`bench.stand_in`."""
    try:
        if "file" in question:
            return {"answer": _of_file(Path(question["file"]))}
        if "entry" in question:
            return {"answer": _descriptions(checked(loaded(EntryPoint(*question["entry"]))))}
        return {"answer": _of_plugin(question)}
    except UserError as error:
        return {"refused": one_line(str(error))}
    except (ValueError, TypeError) as error:  # what a class says of its parameters
        words = message_of(error)
        return {
            "refused": one_line(words) if words else f"{_who(question)}: {type(error).__name__}"
        }
    except BaseException as error:
        return {"refused": f"{_who(question)}: {what_happened(error)}"}


def _who(question: Mapping[str, Any]) -> str:
    """The plugin that is asked about, or the file or package."""
    key = next((question[name] for name in _OF_PLUGINS if name in question), None)
    if key in _known:
        cls = _known[key]
        return f"{SINGULAR[group_of(cls)]} {cls.card.name}"
    return f"--plugin {question['file']}" if "file" in question else str(question.get("entry"))


def _of_file(path: Path) -> dict[str, Any]:
    try:
        module = plugin_file.import_file(path)
    except KeyboardInterrupt as error:  # nobody's but the plugin's: there is no keyboard here
        raise UserError(f"--plugin {path} cannot be imported: KeyboardInterrupt") from error
    opened = [str(file) for file in plugin_file.opened.get(path, ())]
    return {"opened": opened, "classes": _descriptions(checked(plugins_in(module)))}


def _descriptions(classes: Iterable[type[Plugin] | str]) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = []
    for cls in classes:
        if isinstance(cls, str):
            data.append({"fault": one_line(cls)})
            continue
        one = class_data(cls)
        _known[one["key"]] = cls
        data.append(one)
    return data


def _of_plugin(question: Mapping[str, Any]) -> Any:
    asked = next(name for name in _OF_PLUGINS if name in question)
    cls = _known[question[asked]]
    plugin = cls(**{name: unpacked(value) for name, value in question["params"].items()})
    check_params(plugin, f"{SINGULAR[group_of(cls)]} {cls.card.name}")
    if type(plugin)(**plugin.params()).params() != plugin.params():
        raise ValueError(
            f"{_who(question)}: __post_init__ must leave a plugin's own parameters as they are: "
            f"built from {one_line(repr(plugin.params()), 120)} it has others"
        )
    if asked == "build":
        return instance_data(plugin)
    assert isinstance(plugin, Attack)
    if asked == "faults":
        lines: object = plugin.faults(_outline(question["train_set"]))
        if not isinstance(lines, list | tuple):
            raise UserError(
                f"{cls.card.name}: faults() must return a list of lines, got {type(lines).__name__}"
            )
        return [one_line(str(line)) for line in lines][:MOST_LINES]
    sealed = plugin.sealed(question["number"])
    if type(sealed) is not cls:
        raise UserError(f"{cls.card.name}: sealed() must return a {cls.__name__}")
    return {name: packed(value) for name, value in sealed.params().items()}


def _outline(data: Mapping[str, Any]) -> TrainingSet:
    """A training set without pixels."""
    shape, labels = data["shape"], data["labels"]
    return TrainingSet(
        images=torch.empty(shape, dtype=torch.uint8, device="meta"),
        poisoned=torch.zeros(shape[0], dtype=torch.bool),
        labels=None if labels is None else torch.tensor(labels),
    )


def _read(questions: BinaryIO, waiting: queue.SimpleQueue[bytes]) -> None:
    for line in questions:
        waiting.put(line)
    os._exit(0)  # the command is gone, or has no more questions


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def main() -> None:
    """Answers until standard input closes."""
    questions, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # what a plugin prints is no answer
        os.dup2(null, number)
    plugin_file.tell.append(lambda text: None)
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(questions, waiting), daemon=True).start()
    data: dict[str, Any] = {"answer": "ready"}
    while True:
        try:
            line = json.dumps(data)
        except (TypeError, ValueError, RecursionError) as error:
            line = json.dumps({"refused": what_happened(error)})
        _write(answers, line.encode() + b"\n")
        data = answer(json.loads(waiting.get()))


if __name__ == "__main__":
    main()
