"""Several stages on one device at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

from bench.errors import UserError
from benchmarks.device import Device
from benchmarks.gpu.finding import Finding, Sizes

#: How many processes sample at once.
PROCESSES = (1, 2, 4)


def packing(device: Device, sizes: Sizes) -> Iterator[Finding]:
    """Processes that sample with the small network at once: what all of them do together, over what
    one does alone.
    """
    alone = 0.0
    for count in PROCESSES:
        rate, peak = together(count, sizes)
        alone = alone or rate
        note = f"{peak:.2f} GiB each, {device.peak()[1]}"
        yield Finding(
            section="several stages at once",
            quantity=f"{count} process(es) on one device, all together / one",
            unit="ratio",
            values=(rate / alone,),
            note=note,
        )


def together(count: int, sizes: Sizes) -> tuple[float, float]:
    """Images a second of ``count`` processes at once, start-up left out, and the memory of the
    largest, in GiB.
    """
    arguments = [str(number) for number in (sizes.batch, sizes.steps, sizes.repetitions)]
    command = [sys.executable, "-m", "benchmarks.gpu.child", *arguments]
    pipe = subprocess.PIPE
    children = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(count)]
    try:
        for child in children:
            assert child.stdout is not None
            if child.stdout.readline().strip() != "ready":
                raise UserError("a process that was to sample beside others ended")
        answers = []
        for child in children:
            assert child.stdin is not None
            child.stdin.write("\n")
            child.stdin.flush()
        for child in children:
            answers.append(json.loads(child.communicate()[0]))
    finally:
        for child in children:
            child.kill()
            child.wait()
    spent = max(one["ended"] for one in answers) - min(one["began"] for one in answers)
    images = count * sizes.batch * sizes.repetitions
    return images / spent, max(one["peak"] for one in answers)
