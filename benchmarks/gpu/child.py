"""One of several processes that sample at once (:mod:`benchmarks.gpu.packing`): says that it is
ready, waits for a line, samples, and says how many images a second that were.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

from benchmarks.device import Device
from benchmarks.subject import Subject
from benchmarks.timing import Settings


def main(batch: int, steps: int, batches: int) -> None:
    """``batches`` of ``batch`` images in ``steps`` steps."""
    device = Device.here()
    subject = Subject.make()
    generator = subject.testbed.base_generator().to(device.name)
    settings = Settings(batch_size=batch, num_inference_steps=steps)

    def draw(count: int, settings: Settings) -> None:
        subject.sample(generator, settings, count, lambda *_: None, network_batch=batch)
        device.synchronize()

    draw(1, replace(settings, num_inference_steps=2))
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.time()
    draw(batches, settings)
    ended = time.time()
    peak = device.peak()[0]
    print(json.dumps({"began": began, "ended": ended, "peak": peak}), flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:4]))
