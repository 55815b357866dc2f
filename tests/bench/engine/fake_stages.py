"""A stage table that loads no torch: workers start in a tenth of a second, so a test can afford
many of them.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from bench.engine.context import StageKind
from bench.record import Metric, PluginSpec, Record


def compute(params, inputs, out, context):
    """A number that depends on params and inputs alone."""
    below = [
        json.loads((folder / "value.json").read_text())["value"]
        for _, folder in sorted(inputs.items())
    ]
    gate = params.get("gate", os.environ.get("FAKE_GATE"))
    while gate is not None and not Path(gate).exists():
        time.sleep(0.02)
    steps = int(params.get("steps", 1))
    for step in range(steps):
        context.progress(step, steps, "step")
        time.sleep(params.get("sleep", float(os.environ.get("FAKE_SLEEP", "0"))))
    if "removes" in params:
        shutil.rmtree(params["removes"])
    text = json.dumps(
        [{name: params[name] for name in sorted(params) if name not in ("sleep", "gate")}, below]
    )
    value = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 1e12
    (out / "value.json").write_text(json.dumps({"value": value}))
    (out / "threads.json").write_text(
        json.dumps([context.threads, context.device, os.environ.get("CUDA_VISIBLE_DEVICES")])
    )
    return {"generator_calls": 10.0}


def _say(text):
    """Writes into the worker's own pipe, as code that looks for it can."""
    for number in range(3, 64):
        try:
            if os.readlink(f"/proc/self/fd/{number}").startswith("pipe:"):
                os.write(number, text)
        except OSError:
            pass


def _child(first=lambda: None, then=lambda: None):
    """A child that lives on, and holds every pipe of the worker."""
    if os.fork() == 0:
        first()
        time.sleep(600)
    then()


TRICKS = {
    "forged": lambda: _say(b'{"ok": true, "cost": {"seconds": 1.0}}\n'),
    "malformed": lambda: _say(b'{"progress": 5}\n'),
    "noise": lambda: _say(b"\xff\xff" * 10_000 + b"\n"),
    "number": lambda: _say(b"7\n"),
    "forks": lambda: _child(then=lambda: os._exit(1)),
    "leaves": lambda: _child(os.setsid, lambda: os._exit(1)),
    "closes": lambda: os.closerange(0, 64),
}


def broken(params, inputs, out, context):
    """Fails in the way ``params["how"]`` says; with ``once``, only the first time."""
    if "once" in params and Path(params["once"]).exists():
        return compute(params, inputs, out, context)
    if "once" in params:
        Path(params["once"]).touch()
    (out / "half-written").write_text("half")
    print("a plugin's print")
    how = params["how"]
    if how == "raise":
        raise RuntimeError("the plugin is wrong\nand says more")
    if how == "exit":
        os._exit(7)
    if how == "killed":
        os.kill(os.getpid(), 9)
    if how == "hang":
        time.sleep(600)
    if how in TRICKS:
        TRICKS[how]()
        time.sleep(600)
    if how == "prints":
        os.write(1, b"x" * 5_000_000)
    if how == "surrogate":
        raise OSError("caf\udce9 \x1b[2J" + "x" * 1_000_000)
    if how == "sys.exit":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "stays":
        _child(os.setsid)
    if how == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    return {}


def shared(params, inputs, out, context):
    """One rank's part; rank 1 fails in the way ``params["how"]`` says while the others wait for it,
    as in a collective call.
    """
    rank, notes, how = int(os.environ["RANK"]), Path(params["notes"]), params.get("how")
    (out / "value.json").write_text(
        json.dumps({"rank": rank, "world": int(os.environ["WORLD_SIZE"])})
    )
    (notes / str(rank)).write_text(str(os.getpid()))
    print(f"printed by rank {rank}")
    context.progress(rank, 10, "step")
    if how is not None:
        while len(list(notes.iterdir())) < 2:
            time.sleep(0.01)
    if rank == 1 and how == "raise":
        raise RuntimeError("rank 1 is wrong\nand says more")
    if rank == 1 and how == "die":
        os._exit(7)
    if rank == 1 and how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)  # hears nothing, not even that its worker is gone
    if rank == 1 and how == "worker":
        os.kill(os.getppid(), signal.SIGKILL)
    if rank == 0 and how == "die":
        time.sleep(0.3)
        raise RuntimeError("Connection closed by peer")
    if how is not None:
        time.sleep(600)
    return {"generator_calls": 10.0}


def record(params, inputs, out, context):
    """A record whose one metric is :func:`compute`'s number."""
    compute(params, inputs, out, context)
    value = json.loads((out / "value.json").read_text())["value"]
    named = {role: PluginSpec(**params[role]) for role in ("testbed", "attack", "defense")}
    record = Record(
        **named,
        probe=PluginSpec(**params["probe"]) if params.get("probe") else None,
        sampler=PluginSpec(**params["sampler"]) if params.get("sampler") else None,
        seed=params["seed"],
        kind=params.get("kind", ""),
        status="ok",
        protocol=params.get("protocol", ""),
        metrics={"fid[fake]": Metric(value=value, n=1)},
        cost=context.charged,
        provenance=context.provenance,
    )
    (out / "record.json").write_text(record.to_json())
    return {}


def environment(params, inputs, out, context):
    """What the variables ``params["names"]`` are."""
    seen = {name: os.environ.get(name) for name in params["names"]}
    (out / "value.json").write_text(json.dumps(seen))
    return {}


STAGES = {
    "reference": StageKind(run=compute, parts=("data", "features")),
    "aim": StageKind(run=compute, parts=("data",)),
    "train": StageKind(run=compute, parts=("data", "generator"), charge="attack_seconds"),
    "call": StageKind(run=compute, parts=("data", "counts")),
    "sample": StageKind(run=compute, parts=("data", "generator", "sampler", "counts")),
    "repair": StageKind(run=compute, parts=("data", "generator", "sampler")),
    "invert": StageKind(run=compute, parts=("data", "generator", "sampler")),
    "broken": StageKind(run=broken),
    "environment": StageKind(run=environment),
    "shared": StageKind(run=shared, distributed=True),
    "features": StageKind(run=compute, parts=("features",)),
    "measure": StageKind(run=compute),
    "record": StageKind(run=record),
}
