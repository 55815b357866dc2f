"""What Pan et al. 2024 say of how the poisoned model is trained: on replicated images, from scratch or fine-tuned."""

from __future__ import annotations

from science.findings import ABOVE, BELOW, Claim, Line, compare, honest
from science.poisoned import COMPOSITION, DRAWN, SAME_SHARE, TAINTED, amplified, doubts, of, stack
from science.table import Found, Section, fid_part, steps, table


def replication(found: Found) -> Section:
    """Section 6, Fig. 5, Table 6."""
    cells = found["science-poison-replication"]
    plain, random, replicated = (of(cells, "badnets1", duplicates=kind) for kind in ("none", "clean", "poisoned"))
    control = honest(cells, plain)
    rows = [
        ("no replicas, random images poisoned", plain),
        ("replicas, random images poisoned", random),
        ("replicas, and they are poisoned", replicated),
        ("honest model, no replicas", control),
    ]
    short, lines = ("no replicas", "replicas, others poisoned", "replicas poisoned", "honest model"), [line for _, line in rows]
    columns, body = table("training set", rows, (*COMPOSITION, "replication", "replication_p95", "fid", "prompt_accuracy"))

    def more(metric: str, name: str) -> tuple[str, tuple[Line | None, str], tuple[Line | None, str]]:
        return f"{name}, replicas poisoned − random images poisoned", (replicated, metric), (random, metric)

    claims = (
        Claim(
            "Poisoning the replicated images makes more images of another class with the trigger (G1)",
            (compare(*more("g1", "G1"), ABOVE),),
        ),
        Claim(
            "Poisoning the replicated images makes more images of the right class with the trigger (G2)",
            (compare(*more("g2", "G2"), ABOVE),),
        ),
        Claim(
            "Poisoning the replicated images makes the generator repeat its training set more",
            (
                compare(*more("replication", "replication"), ABOVE),
                compare(*more("replication_p95", "replication, 95th percentile"), ABOVE),
            ),
        ),
        Claim(
            "Without any replicas, a poisoned model repeats its training set more than an honest one",
            (
                compare("replication, poisoned − honest", (plain, "replication"), (control, "replication"), ABOVE),
                compare(
                    "replication, 95th percentile, poisoned − honest",
                    (plain, "replication_p95"),
                    (control, "replication_p95"),
                    ABOVE,
                ),
            ),
            ours=True,
        ),
    )
    return Section(
        "8. Data replication",
        "Putting the trigger on images that the training set holds several times, instead of on random ones, makes the generator repeat "
        "training images more, and raises both G1 and G2 (section 6, Fig. 5, Table 6: by 0.3 to 4 points). The paper finds replicas in "
        "its data; here they are made, ten of each replicated image, and SSCD's features are replaced by the testbed's own: replication "
        "is the mean over generated images of the cosine similarity to the nearest training image, higher being more of a copy.",
        ("science-poison-replication",),
        columns,
        body,
        claims,
        tuple(stack("replication", "G1 to G4 with and without replicas", zip(short, lines, strict=True))),
        doubts(rows),
        whiskers=False,
    )


def schemes(found: Found) -> Section:
    """Appendix A: the DDPM is trained from scratch, Stable Diffusion is fine-tuned."""
    cells = found["science-poison-schemes"]
    tuned, scratch = of(cells, "badnets1", scheme="finetune"), of(cells, "badnets1", scheme="scratch")
    both = (("fine-tuning", tuned), ("from scratch", scratch))
    rows = [*((f"{name}{steps(line)}", line) for name, line in both), ("honest fine-tuning", honest(cells, tuned))]
    columns, body = table("scheme", rows, DRAWN)
    difference = ((tuned, TAINTED), (scratch, TAINTED), SAME_SHARE)
    claims = (
        Claim(
            "The trigger is amplified either way",
            tuple(amplified(f"G1 + G2 − p_t, {name}", line) for name, line in both),
        ),
        Claim(
            "Fine-tuning shows the trigger about as often as training from scratch (within 0.1)",
            (compare("G1 + G2, fine-tuning − from scratch", *difference),),
            ours=True,
        ),
        Claim("Fine-tuning reaches a lower FID", (fid_part("fine-tuning − from scratch", tuned, scratch, BELOW),), ours=True),
    )
    return Section(
        "9. Fine-tuning and training from scratch",
        "The findings are stated alike for a DDPM trained from scratch on poisoned CIFAR-10 and for Stable Diffusion fine-tuned on "
        "poisoned data (section 4, appendices A and C.2); the two are not compared on one data set. Here they are, for the patch.",
        ("science-poison-schemes",),
        columns,
        body,
        claims,
        notes=doubts(rows),
    )
