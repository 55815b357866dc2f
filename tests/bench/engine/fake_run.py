"""A run of fake stages as a process of its own, for tests that kill it: ``fake_run.py STORE JOBS``;
each step sleeps FAKE_SLEEP seconds. FAKE_MACHINE: on which machine it believes to be. FAKE_GATE: a
file that stages wait for.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from bench.engine import store
from bench.engine.run import execute

spec = importlib.util.spec_from_file_location(
    "engine_conftest", Path(__file__).with_name("conftest.py")
)
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)


def matrix(folder):
    lab = conftest.Lab(folder)
    reference = lab.stage("reference", steps=1)
    for seed in (0, 1):
        for attack in ("one", "two"):
            trained = lab.stage("train", attack={"name": attack, "params": {}}, seed=seed, steps=4)
            clean = lab.stage("sample", {"generator": trained}, what="clean", seed=seed, steps=2)
            noise = lab.stage("sample", {"generator": trained}, what="noise", seed=seed, steps=2)
            lab.cell({"reference": reference, "clean": clean, "noise": noise}, attack, seed)
    return lab


if __name__ == "__main__":
    if "FAKE_MACHINE" in os.environ:
        store.machine = lambda: os.environ["FAKE_MACHINE"]
    lab = matrix(sys.argv[1])
    executor = lab.executor(jobs=int(sys.argv[2]))
    outcome = execute(lab.plan(), lab.store, executor)
    print(
        json.dumps(
            {"made": outcome.stages_made, "elsewhere": len(lab.reporter.keys("elsewhere"))}
            | outcome.counts
        )
    )
