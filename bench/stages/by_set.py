"""What a defender's plugin made of a pool, by the sets that the pool was made of."""

from __future__ import annotations

from pathlib import Path

from bench.artefacts import doubts
from bench.artefacts.arrays import load_scores, save_scores
from bench.artefacts.images import REMARKS
from bench.artefacts.judged import POOL, load_judged
from bench.engine.context import Inputs, Params, StageContext


def run(params: Params, inputs: Inputs, out: Path, context: StageContext) -> dict[str, float]:
    """Writes the numbers by set, and which rows of a larger one a set is; what was doubtful or
    remarked of the pool is so of the sets.
    """
    answers, judged = inputs["answers"], load_judged(inputs["judged"])
    taken = {f"{name}_rows": chosen.numpy() for name, chosen in judged.rows.items()}
    save_scores(out, judged.of_pool(load_scores(answers)[POOL]) | taken)
    doubts.save(out, doubts.load(answers))
    if (answers / REMARKS).is_file():
        (out / REMARKS).write_bytes((answers / REMARKS).read_bytes())
    return {}
