"""A worker: a process that keeps torch loaded and runs one stage after another for the run that
started it.

Tasks arrive as lines of JSON on standard input and results leave as lines of JSON on the original
standard output. The two sides share no memory, no lock and no pickle, so a worker can be killed at
any moment without harm. When the run dies, standard input closes and the worker exits. Everything a
plugin prints goes to ``log.txt`` in the stage's folder.

Stages are looked up in the table ``STAGES`` of a module, given by its dotted name or its file.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import json
import os
import queue
import resource
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from bench.engine import admission
from bench.engine.context import StageContext, StageKind
from bench.engine.fingerprint import RUN, refuse_other_code
from bench.engine.namespaces import own_bytes
from bench.engine.ranks import RankFailed, run_ranks
from bench.engine.store import LOG, commit, discard, is_disk_full
from bench.engine.surroundings import Surroundings
from bench.errors import UserError
from bench.plugin_file import Source, Watch, check, tell
from bench.text import REASON_LENGTH, message_of, one_line, tail

PROGRESS_SECONDS = 0.2
#: The largest log of a stage, and how often its size is checked while the stage runs.
LOG_BYTES, LOG_SECONDS = 2**20, 1.0


def load_stages(source: str) -> Mapping[str, StageKind]:
    """The table ``STAGES`` of a module, given as ``package.module`` or ``/path/to/file.py``."""
    if not source.endswith(".py"):
        table: Mapping[str, StageKind] = importlib.import_module(source).STAGES
        return table
    name = f"castlewalls_stages_{Path(source).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, source)
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    from_file: Mapping[str, StageKind] = sys.modules[name].STAGES
    return from_file


def run_stage(
    kinds: Mapping[str, StageKind], task: Mapping[str, Any], send: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Makes one stage and commits it to the store. ``task``: what
    :class:`bench.engine.executor.Executor` sends.

    Of a third party's plugin it makes the stage in the folder that is there, and no more: what
    this process leaves is for another one to commit (:func:`admit_stage`).

    Returns ``{"ok": True, "cost": ...}``, or ``{"ok": False, "reason", "trace", "retry"}``; never
    raises.
    """
    out, isolated = Path(task["folder"]), bool(task.get("isolated"))
    try:
        out.mkdir(exist_ok=isolated)
        with _Output(out / LOG):
            kind = kinds[task["stage"]]
            together = kind.distributed and task.get("processes", 1) > 1
            cost = run_ranks(task, send) if together else _measured(kind, task, out, send)
        if not isolated:
            _commit(task, out, cost)
        return {"ok": True, "cost": cost}
    except (
        BaseException
    ) as error:  # SystemExit and KeyboardInterrupt too: here they come from a plugin
        failure = _failure(error, task)
        if not isolated:
            discard(out)
        return failure


def admit_stage(kinds: Mapping[str, StageKind], task: Mapping[str, Any]) -> dict[str, Any]:
    """Commits what a third party's plugin's process left in ``task["raw"]``, if it is what such a
    stage leaves. Returns the same as :func:`run_stage`.
    """
    out = Path(task["folder"])
    try:
        out.mkdir()
        admission.take_over(Path(task["raw"]), out)
        kind = kinds[task["stage"]]
        if kind.admit is not None:
            context = StageContext(**{**task["context"], "partial": None, "device": "cpu"})
            inputs = {role: Path(folder) for role, folder in task["inputs"].items()}
            kind.admit(task["params"], inputs, out, context)
        admission.sign(out, task["context"]["provenance"])
        _commit(task, out, task["cost"])
        return {"ok": True, "cost": task["cost"]}
    except BaseException as error:
        if isinstance(error, FileNotFoundError) and error.filename:
            name = os.path.basename(os.fsdecode(error.filename))
            error = UserError(f"the plugin's process left no {name}, which such a stage leaves")
        failure = _failure(error, task)
        discard(out)
        return failure | {"retry": False}


def _commit(task: Mapping[str, Any], out: Path, cost: Mapping[str, float]) -> None:
    if (out / LOG).is_file() and not (out / LOG).stat().st_size:
        (out / LOG).unlink()
    manifest = {
        name: task[name] for name in ("stage", "alike", "key", "params", "input_keys", "provenance")
    } | {"cost": cost}
    commit(out, Path(task["final"]), manifest)
    if "partial" in task["context"]:
        shutil.rmtree(task["context"]["partial"], ignore_errors=True)


def run_rank(
    kinds: Mapping[str, StageKind], task: Mapping[str, Any], send: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Runs one rank's part of a distributed stage in its folder, for
    :func:`bench.engine.ranks.run_ranks`. Returns the same as :func:`run_stage`.
    """
    try:
        return {
            "ok": True,
            "cost": _measured(kinds[task["stage"]], task, Path(task["folder"]), send),
        }
    except BaseException as error:
        return _failure(error, task)


def _failure(error: BaseException, task: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(error, RankFailed):
        return error.result
    if is_disk_full(error) and task.get("isolated"):
        reason = "no space is left of what a plugin may write (or none on the disk)"
    elif is_disk_full(error):
        reason = f"disk full while writing {task['final']}"
    elif isinstance(error, UserError):
        reason = str(error)
    else:
        words = message_of(error)
        message = (
            ("(its text cannot be had)" if words is None else words)[: 10 * REASON_LENGTH]
            .strip()
            .splitlines()
            or [""]
        )[0]
        reason = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return {
        "ok": False,
        "reason": one_line(reason),
        "trace": tail(traceback.format_exc()),
        "retry": not (is_disk_full(error) or isinstance(error, UserError)),
        "disk_full": is_disk_full(error),
    }


def _measured(
    kind: StageKind, task: Mapping[str, Any], out: Path, send: Callable[[dict[str, Any]], None]
) -> dict[str, float]:
    last_sent = 0.0

    def progress(done: int, total: int, what: str = "") -> None:
        nonlocal last_sent
        now = time.monotonic()
        if now - last_sent >= PROGRESS_SECONDS or done >= total:
            last_sent = now
            send({"progress": [int(done), int(total), str(what)]})

    _forget_peak_memory()
    started = time.monotonic()
    partial = task["context"].get("partial")
    if partial is not None and Path(partial).exists() and not os.access(partial, os.W_OK):
        partial = None  # another user's, in a shared store
    fields = {**task["context"], "partial": None if partial is None else Path(partial)}
    context = StageContext(progress=progress, **fields)
    inputs = {role: Path(folder) for role, folder in task["inputs"].items()}
    plugins = [Source(**source) for source in task.get("plugins", ())]
    loaded = set(sys.modules)
    with ExitStack() as stack:
        watches = [
            stack.enter_context(Watch(Path(plugin.file).parent))
            for plugin in plugins
            if plugin.file
        ]
        try:
            extra = kind.run(task["params"], inputs, out, context) or {}
        except Exception as error:
            # A failure after a switch was changed is blamed on that change.
            if plugins and (changes := _changes(plugins)):
                raise UserError(
                    f"{changes}; what failed then: {type(error).__name__}: {message_of(error)}"
                ) from error
            if isinstance(error, FileNotFoundError) and task.get("isolated"):
                _refuse_unknown(plugins, watches)  # it was there, and not shown
            raise
    if any(name.partition(".")[0] in RUN for name in set(sys.modules) - loaded):
        refuse_other_code(task["code"])  # of which some was read only now
    if plugins:
        _check_plugins(plugins, watches)
    cost = {name: float(value) for name, value in extra.items()}
    seconds = context.earlier_seconds + time.monotonic() - started
    return (
        cost
        | {"seconds": seconds, "peak_memory_bytes": float(peak_memory())}
        | _gpu_peak(context.device)
    )


def _check_plugins(plugins: Sequence[Source], watches: Sequence[Watch]) -> None:
    """Raises :class:`UserError` if third-party plugins left global state changed, or read a file
    that is in no key.
    """
    if changes := _changes(plugins):
        raise UserError(f"{changes}; put it back before returning")
    _refuse_unknown(plugins, watches)


def _refuse_unknown(plugins: Sequence[Source], watches: Sequence[Watch]) -> None:
    known = {name for plugin in plugins for name in plugin.hashes}
    unknown = sorted({str(path) for watch in watches for path in watch.read} - known)
    if unknown:
        raise UserError(
            f"{_names(plugins)} reads {unknown[0]}, which no result's key holds: list it in its "
            f"card's files"
        )


def _changes(plugins: Sequence[Source]) -> str:
    """A message that names the global state that plugins left changed; empty if they did not."""
    changes = _pristine[0].changes() if _pristine else ""
    return (
        f"{_names(plugins)} left changed what all code in its process shares: {changes}"
        if changes
        else ""
    )


def _names(plugins: Sequence[Source]) -> str:
    return " and ".join(plugin.file or f"the plugin {plugin.name}" for plugin in plugins)


def _forget_peak_memory() -> None:
    """Resets the peak. Linux can do so; elsewhere the peak is the process's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    # otherwise there is nothing to reset, and no GPU chosen yet
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> int:
    """Peak resident bytes since :func:`_forget_peak_memory`, or since the process started where the
    system cannot tell.
    """
    with suppress(OSError, StopIteration):
        return own_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gpu_peak(device: str) -> dict[str, float]:
    torch = sys.modules.get("torch")
    return (
        {"peak_gpu_memory_bytes": float(torch.cuda.max_memory_allocated())}
        if torch is not None and device == "cuda"
        else {}
    )


class _Output:
    """Redirects file descriptors 1 and 2 to a file, including output of C libraries, and restores
    them. The middle of the file is dropped if it exceeds :data:`LOG_BYTES`.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.done = path, threading.Event()

    def __enter__(self) -> None:
        self.saved = [os.dup(1), os.dup(2)]
        log = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for number in (1, 2):
            os.dup2(log, number)
        os.close(log)
        threading.Thread(target=self._keep_short, daemon=True).start()

    def _keep_short(self) -> None:
        while not self.done.wait(LOG_SECONDS):
            self._shorten()

    def _shorten(self) -> None:
        with suppress(OSError):
            size = self.path.stat().st_size
            if size > LOG_BYTES:
                with self.path.open("r+b") as log:
                    log.seek(-LOG_BYTES // 4, os.SEEK_END)
                    end = log.read(LOG_BYTES // 4)
                    log.truncate(LOG_BYTES // 4)
                    log.seek(0, os.SEEK_END)
                    log.write(b"\n[... what was printed here is left out ...]\n" + end)

    def __exit__(self, *exception: object) -> None:
        self.done.set()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        for number, saved in zip((1, 2), self.saved, strict=True):
            with suppress(OSError):  # a plugin may have closed them
                os.dup2(saved, number)
                os.close(saved)
        self._shorten()


def _read_tasks(tasks: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)  # the run is gone or has no more tasks


_pristine: list[Surroundings] = []


def _prepare(task: dict[str, Any]) -> Mapping[str, StageKind]:
    """Restores this process to its initial state and loads what the stage needs. Raises
    :class:`UserError` if the code is not what the stage's key is made of.
    """
    kinds = load_stages(task["stages"])
    refuse_other_code(task["code"])
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(task["context"]["threads"])
        if task["context"]["device"] == "cuda":
            precision = importlib.import_module("bench.diffusion.precision")
            precision.exact_float32()
            for holder in (task, task["context"]):
                holder["provenance"] = holder["provenance"] | {
                    "gpu_numerics": precision.gpu_numerics()
                }
    if not _pristine:
        _pristine.append(Surroundings())
    _pristine[0].restore()
    _load_plugins(task)
    return kinds


def _load_plugins(task: Mapping[str, Any]) -> None:
    """Loads the third-party plugins that this stage runs, and no others. Raises :class:`UserError`
    for one that is not what was planned, or that changes global state on import.
    """
    plugins = [Source(**source) for source in task.get("plugins", ())]
    for plugin in plugins:
        check(plugin.hashes)
    if "bench.registry" in sys.modules:  # a stage table that knows no plugin need not load torch
        files = list(dict.fromkeys(plugin.file for plugin in plugins if plugin.file))
        only = list(
            dict.fromkeys((plugin.group, plugin.name) for plugin in plugins if not plugin.file)
        )
        importlib.import_module("bench.registry").use(files, only)
        if plugins and (changes := _pristine[0].changes()):
            raise UserError(
                f"{_names(plugins)} changes, when it is imported, what all code in its process "
                f"shares: {changes}"
            )


def serve(answers: TextIO) -> None:
    """Runs tasks until standard input closes."""
    tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(tasks,), daemon=True).start()
    saying = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        # a closed pipe is noticed at the other end
        with saying, suppress(OSError, ValueError):
            answers.write(json.dumps(message) + "\n")
            answers.flush()

    tell.append(lambda text: send({"note": text}))
    while True:
        task = tasks.get()
        try:
            kinds = _prepare(task)
        except BaseException as error:
            send(_failure(error, task) | {"retry": False})
            continue
        send({"started": True})
        if "raw" in task:
            send(admit_stage(kinds, task))
        else:
            send((run_rank if "rank" in task else run_stage)(kinds, task, send))


def main() -> None:
    """Entry point of ``python -m bench.engine.worker``."""
    faulthandler.enable()  # to descriptor 2, which is the stage's log while one runs
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a stray print must not look like an answer
    serve(answers)


if __name__ == "__main__":
    main()
