"""A stage table that loads no torch: what a submitted plugin could do in the process it is given,
and an honest stage beside it.
"""

import json
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from bench.engine.context import StageKind
from bench.errors import ContractError


def value(params, inputs, out, context):
    (out / "value.json").write_text(json.dumps({"seed": params["seed"]}))
    (out / "learnt.safetensors").write_bytes(b"the trigger")
    (out / "castlewalls.json").write_text(json.dumps({"attack": "the truth", "provenance": {}}))
    return {"generator_calls": 1.0}


def look(params, inputs, out, context):
    """What it can see, as its result."""
    context.progress(1, 1, "looked")
    environment = {name: os.environ.get(name) for name in ("HOME", "TMPDIR", "MY_TOKEN")}
    processes = [name for name in os.listdir("/proc") if name.isdigit()]
    seen = {
        "store": [str(path) for path in Path(params["store"]).rglob("*")],
        "secret": os.path.exists(params["secret"]),
        "inputs": {role: sorted(os.listdir(folder)) for role, folder in inputs.items()},
        "value": [json.loads((folder / "value.json").read_text()) for folder in inputs.values()],
        "environment": environment,
        "commands": [Path(f"/proc/{name}/cmdline").read_text() for name in processes],
        "key": [context.key, sorted(context.provenance)],
        "cwd": os.listdir("."),
        "located": [os.path.exists(path) for path in params.get("locations", ())],
        "printed": (out / "log.txt").exists(),
        "user": os.getuid() == params["user"],
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "parent": readable("/proc/1/mem"),
    }
    print("a line of the plugin's")
    (out / "seen.json").write_text(json.dumps(seen))
    return {"seconds_it_claims": 0.0, "generator_calls": 3.0}


def state(params, inputs, out, context):
    """What a process has from whoever started it, as its result."""
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    status = Path("/proc/self/status").read_text().splitlines()
    kept = ("Cap", "NoNewPrivs", "Seccomp", "Threads", "Umask", "Uid", "Gid", "Groups")
    seen = {
        "environment": dict(os.environ),
        "open": {name: target(name) for name in os.listdir("/proc/self/fd")},
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        "status": [line for line in status if line.startswith(kept)],
        "path": sys.path,
        "flags": str(sys.flags),
        "handlers": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGCHLD)],
        "temporary": tempfile.gettempdir(),
        "leads": os.getsid(0) == 0 and os.getppid() == 1,
        "peak": Path("/proc/self/clear_refs").open("w") is not None,
    }
    (out / "seen.json").write_text(json.dumps(seen))
    return {}


def target(descriptor):
    try:
        return re.sub(r"[\d:\[\]]+", "", os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:  # of the listing itself
        return ""


def readable(path):
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def write(folder):
    for number in range(10**6):
        with open(f"{folder}/{number}.bin", "wb") as file:
            file.write(bytes(2**20))


def fork():
    while True:
        if os.fork() == 0:
            time.sleep(600)


def fork_twice_and_leave():
    """A child in a session of its own outlives whoever waits for its parent."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(3, 100)
            time.sleep(600)
        os._exit(0)
    os._exit(0)


def memory():
    kept = []
    while True:
        kept.append(bytearray(os.urandom(2**20) * 16))


def speak():
    """Writes into whatever pipe it finds, as a worker that is done, or says something."""
    for number in range(3, 64):
        try:
            os.write(number, b'{"ok": true, "cost": {"seconds": -1, "evil": 1}}\n')
        except OSError:
            pass
    time.sleep(600)


def flood():
    while True:
        for number in range(3, 64):
            try:
                os.write(number, b'{"note": "look at me"}\n')
            except OSError:
                pass


def unmount():
    """What a process with rights of its own could undo."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    root, usr = libc.mount(None, b"/", None, 32 | 4096, None), libc.umount2(b"/usr", 2)
    raise RuntimeError(f"remounted {root}, unmounted {usr}, unshared {libc.unshare(0x10020000)}")


ACTS = {
    "connects": lambda params, out: socket.create_connection(("127.0.0.1", params["port"]), 5),
    "resolves": lambda params, out: socket.create_connection(("192.0.2.1", 80), 5),
    "fills_scratch": lambda params, out: [write("/tmp"), write(".")],
    "fills_disk": lambda params, out: write(out),
    "holes": lambda params, out: (
        [(out / f"{n}.npy").open("wb").truncate(2**25 + 2**24) for n in range(4)]
        + [time.sleep(600)]
    ),
    "many_files": lambda params, out: [(out / f"{n}.json").touch() for n in range(10**6)],
    "deep": lambda params, out: deep(out),
    "one_large_file": lambda params, out: (out / "x.bin").open("wb").truncate(2**40),
    "forks": lambda params, out: fork(),
    "leaves_a_child": lambda params, out: fork_twice_and_leave(),
    "memory": lambda params, out: memory(),
    "prints": lambda params, out: [os.write(1, b"x" * 2**16) for _ in iter(int, 1)],
    "kills_parent": lambda params, out: [os.kill(os.getppid(), signal.SIGKILL), time.sleep(5)],
    "kills_itself": lambda params, out: os.kill(os.getpid(), signal.SIGKILL),
    "ends": lambda params, out: os._exit(0),
    "crashes": lambda params, out: os.kill(os.getpid(), signal.SIGSEGV),
    "hangs": lambda params, out: time.sleep(600),
    "writes_python": lambda params, out: Path(os.__file__).with_name("planted.py").write_text(""),
    "writes_ours": lambda params, out: Path(__file__).write_text(""),
    "link": lambda params, out: os.symlink("/etc/passwd", out / "value.json"),
    "link_as_log": lambda params, out: [(out / "log.txt").unlink(), fifo(out / "log.txt"), 1 / 0],
    "pipe": lambda params, out: fifo(out / "value.json"),
    "pickle": lambda params, out: (out / "value.pkl").write_bytes(b"cos\nsystem\n"),
    "hidden": lambda params, out: (out / ".value.json").write_text("{}"),
    "object_array": lambda params, out: save_objects(out),
    "bomb": lambda params, out: save_bomb(out),
    "no_json": lambda params, out: (out / "value.json").write_text("[" * 10**5),
    "disk_full": lambda params, out: full(),
    "speaks": lambda params, out: speak(),
    "floods": lambda params, out: flood(),
    "unmounts": lambda params, out: unmount(),
    "leaves_nothing": lambda params, out: None,
    "wrong_value": lambda params, out: (out / "value.json").write_text('{"seed": 99}'),
}


def deep(out):
    """Beyond the longest path there is, where a file would not be seen."""
    os.chdir(out)
    for _ in range(3000):
        os.mkdir("deep")
        os.chdir("deep")
    os.chmod(".", 0)
    os.chdir("/")
    time.sleep(600)


def fifo(path):
    os.mkfifo(path)


def full():
    raise OSError(28, "No space left on device")


def save_objects(out):
    import numpy as np

    np.savez(out / "value.npz", value=np.array([{}], dtype=object))


def save_bomb(out):
    import zipfile

    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }"
    header = (header % 10**9).ljust(127) + b"\n"
    with zipfile.ZipFile(out / "value.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("value.npy", header + bytes(2**20))


def act(params, inputs, out, context):
    ACTS[params["act"]](params, out)
    return {}


def admit(params, inputs, out, context):
    """The stage's own rule, asked where no plugin is."""
    path = out / "value.json"
    wanted = path.exists() or params["act"] == "leaves_nothing"
    if wanted and json.loads(path.read_text()) != {"seed": 0}:
        raise ContractError(f"a value of 0 is wanted (asked in {os.path.basename(os.getcwd())!r})")


STAGES = {
    "value": StageKind(run=value),
    "look": StageKind(run=look),
    "state": StageKind(run=state),
    "act": StageKind(run=act, admit=admit),
}
