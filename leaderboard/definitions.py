"""What stands behind every column's head: what the number is, of how many samples, at how many
steps, against which reference set, out of what, with which interval and which test for ties, and
which direction is good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from leaderboard.board import Board
from leaderboard.bootstrap import DRAWS
from leaderboard.contenders import end_points, fid_name
from leaderboard.finders import FinderRanking
from leaderboard.inversions import Recovery
from leaderboard.labels import label
from leaderboard.methods import NOTHING, acts_on
from leaderboard.names import Words
from leaderboard.panel import Panel
from leaderboard.questions import Question
from leaderboard.ranking import BUDGET
from leaderboard.red_flags import definitions
from leaderboard.values import samples_of
from leaderboard.whole import ASR, CLASSIFIER, DETECTION, POPULATION, RECOVERED, Column

_LOWER, _HIGHER = "Lower is better for the defender.", "Higher is better for the defender."
_SHARE = "95 % over seeds, Korn and Graubard’s for shares: never of no width, never outside 0 to 1."
_SHARED = "If it holds 0 the two share a rank (=). Not corrected for the number of comparisons."
_PAIRED = (
    "The 95 % interval of the difference, paired by seed (and by sample where its outcomes are "
    f"known), by Student’s t with the sampling variance as its floor. {_SHARED}"
)
#: Of detectors, of which no outcome of a single sample is known.
_BY_SEED = (
    "The 95 % interval of the difference, paired by seed and not by sample, by Student’s t with "
    f"the sampling variance as its floor. {_SHARED}"
)
#: Of inversions: an error has no samples to count.
_LOGARITHMS = (
    "The 95 % interval of the difference of the ratios’ logarithms, paired by seed, by Student’s "
    f"t. {_SHARED}"
)
#: By the kind of a question's entries: the test for ties, and what the rank interval draws.
_TESTS = {
    "Defense": (_PAIRED, "seeds, then samples, the same for every entry"),
    "Detector": (_BY_SEED, "seeds, the same for every entry, then samples, each entry’s own"),
    "Inversion": (_LOGARITHMS, "seeds alone, the same for every entry"),
}
_NO_MEAN = (
    "None: the attacks were chosen, not drawn from all there are, so what they differ by is no "
    "error of their mean. Each attack’s own interval stands in the matrix."
)
_IN_THE_CELL = "None here, since it is no number that is ranked by; each attack’s cell has its own."
#: Of further columns where each testbed's ranking stands in depth, by their key.
_CHANGES = {
    "change": (
        "Change to no defense",
        (
            ("What it is", "The rate less no defense’s, paired by seed, each at its best call."),
            ("Direction", _LOWER),
            ("Interval", _PAIRED),
            ("n", "The seeds that both have."),
        ),
    ),
    "above honest": (
        "Above an honest model",
        (
            ("What it is", "The rate less what an honest model reads, never below 0."),
            ("Direction", _LOWER),
            ("Interval", "None: it ranks nothing. The rate’s own stands beside it."),
        ),
    ),
}
_MEANS = {
    "mean AUROC": (
        "AUROC, mean over attacks",
        (
            ("What it is", "The mean of the attacks’ AUROC. It ranks nothing."),
            ("Direction", _HIGHER),
            ("Interval", _NO_MEAN),
        ),
    ),
}
_TIME = (
    (
        "What it is",
        "Seconds of the cell alone, on the machine of the records: the method and its samples, not "
        "the attack’s training. Mean over attacks and seeds.",
    ),
    ("Direction", _LOWER),
    (
        "Interval",
        "None: what else ran on the machine moves it more than the seed does. A cell has its own "
        "seconds, with their interval over seeds, under “Cost”.",
    ),
)
_COUNT = (
    (
        "What it is",
        "The fewest seeds any attack was measured with, and the samples behind the number of one "
        "seed. A failed seed has none. A rank needs three seeds.",
    ),
    (
        "Of which",
        "The number ranked by. What other columns count differently, they say themselves.",
    ),
)
_BEST_EPOCH = (
    ("What it is", "Chosen with the truth in hand, which no defender has: optimistic."),
    ("Interval", _IN_THE_CELL),
)
_HONEST_MODEL = (
    ("What it is", "The same on a model without a backdoor: nothing is there."),
    ("Interval", _IN_THE_CELL),
)
_ALARMS = (
    ("What it is", "The share of clean ones above the same threshold, where it is highest."),
    ("Direction", f"{_LOWER} The threshold was fixed for 1 %; a dash where it was not."),
    ("Interval", _IN_THE_CELL),
)
#: A detector's rate, by whether its threshold was fixed beforehand.
_AT_THRESHOLD = {
    True: "at a threshold fixed beforehand on clean held-out data at 1 % false alarms",
    False: (
        "at the threshold that has 1 % false alarms on the very data that is judged, which no "
        "defender can choose"
    ),
}
_FIXED_ON = {
    True: "clean held-out data, as an owner could",
    False: "the clean ones among those judged",
}
#: Parameters of a testbed that say how images are drawn, with words for them.
_DRAWING = (
    ("sampler", "{}"),
    ("num_inference_steps", "{} steps"),
    ("guidance_scale", "guidance {}"),
)


_LEVELS = (
    ("What it is", "How far the bundle that these numbers were submitted in has been verified."),
    ("0", "Not checked: on a board of its own."),
    ("1", "Whole: files, hashes, schema and protocol are as they must be."),
    ("2", "Consistent: complete, agrees with itself and with the published controls."),
    ("3", "Made again: cells drawn by lot came out the same, by a verifier’s statement."),
    ("–", "Not submitted: a store, or published results."),
)


_NEEDS = (
    (
        "What it is",
        "What its user must have beside what it acts on (the sampler’s steps, or what it judges). "
        "Its author declares it; the harness hands a method nothing else.",
    ),
    (NOTHING, "Nothing beside that: neither weights nor data."),
    ("queries", "Samples of the suspected model, as many as it asks for."),
    ("weights", "The suspected model itself, which can also be asked for samples."),
    ("base weights", "The model that the suspected one was made from, which few have."),
    ("clean data", "Images that no adversary touched, of the same kind as the training data."),
    ("training data", "The suspected training set, or that of the suspected classifier."),
    ("classifier", "The suspected classifier."),
    ("–", "The run of the records does not say."),
    ("Filter", "Keeps what can be used by who has no more than the chosen line says."),
)


@dataclass(frozen=True)
class Definition:
    """``id``: an HTML id; ``lines``: (term, text)."""

    id: str
    title: str
    lines: tuple[tuple[str, str], ...]


def of_question(question: Question, called: Mapping[str, str]) -> dict[str, Definition]:
    """Of each column of its ranking, by the column's key; ``called``: the boards' names, by id."""
    boards = list({group.board.id: group.board for group in question.groups}.values())
    drawn = _drawn(boards, called)
    worst = _worst(question, boards, called, drawn)
    each = ", each at the call that works best" if question.kind == "Defense" else ""
    means = f"The mean over the attacks{each}. It ranks nothing."
    more = _CHANGES if question.kind == "Defense" else _MEANS if question.kind == "Detector" else {}
    texts: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
        "rank": ("Rank, and where it could lie", _rank(question)),
        "method": (
            question.kind,
            (
                ("What it is", "The method with the parameters that differ from its defaults."),
                (
                    "Pareto front",
                    "Nothing else that beats no defense is better in both rate and cost.",
                ),
                ("Flags", "What the harness or the method itself warns of; open the cell for all."),
                *definitions(cell for board in boards for cell in board.cells.values()),
            ),
        ),
        "worst": (f"{question.short}, worst over attacks", (*worst, *_drawing(question))),
        "mean": (
            f"{question.short}, mean over attacks",
            (("What it is", means), worst[1], ("Interval", _NO_MEAN)),
        ),
        **{head: _extra(head, boards, drawn) for head in question.extra_heads},
        **more,
        "time": ("Run time", _TIME),
        "needs": ("Needs", _NEEDS),
        "n": ("n: seeds × samples", _COUNT),
        "level": ("Level", _LEVELS),
        "paper": (
            "Paper",
            (("What it is", "Where the method is from; all citations stand at the page’s end."),),
        ),
    }
    return {
        key: Definition(f"def-{question.id}-{key.replace(' ', '-')}", title, lines)
        for key, (title, lines) in texts.items()
        if key != "level" or question.submitted
    }


def _worst(
    question: Question, boards: Sequence[Board], called: Mapping[str, str], drawn: str
) -> tuple[tuple[str, str], ...]:
    """Of the number that a question's entries are ranked by."""
    if question.recovery:
        return _error(question.recovery)
    if question.kind == "Detector":
        return _detected(question, called, drawn)
    return _asr(boards, drawn) if question.id == "stops" else _classifier(drawn)


def of_column(column: Column, boards: Sequence[Board], called: Mapping[str, str]) -> Definition:
    """Of one column of the whole matrix; ``called`` as in :func:`of_question`."""
    who = "No defense: the control of every row." if column.control else label(column.spec)
    if column.metric in RECOVERED:
        lines = _inversion(RECOVERED[column.metric])
    else:
        drawn = _drawn(boards, called)
        lines = {
            ASR: _asr(boards, drawn),
            CLASSIFIER: _classifier(drawn),
            DETECTION: _auroc(drawn),
            POPULATION: _models(),
        }[column.metric]
    about = [("Column", who)]
    if not column.control:
        about += [("Family", column.family), ("Acts on", acts_on(column.family))]
        about.append(("Needs", column.needs or "not declared in the records’ run"))
    if column.papers:
        about.append(("Paper", "; ".join(f"{one.title} ({one.short})" for one in column.papers)))
    return Definition(f"def-{column.key}", column.metric, (*about, *lines))


def _asr(boards: Sequence[Board], drawn: str) -> tuple[tuple[str, str], ...]:
    points = [p for board in boards for p in end_points(board) if not p.higher_is_better]
    # A board of failures has no metric that says what was aimed at.
    rates = "; or ".join(dict.fromkeys(point.rate for point in points)) or (
        "the share of triggered samples that come out as the adversary wants"
    )
    return (
        ("What it is", f"{rates[:1].upper()}{rates[1:]}. The call that works best counts."),
        ("Direction", _LOWER),
        ("Out of", "All triggered samples of a seed. A seed that failed counts as 1 when ranked."),
        (
            "Reference set",
            "Real images and the best flat image fix how near the target a sample must come, a "
            "trigger or evaluation classifier trained apart where there is no target image.",
        ),
        ("Samples and steps", drawn),
        ("Interval", _SHARE),
        ("Ties", _PAIRED),
    )


def _drawing(question: Question) -> tuple[tuple[str, str], ...]:
    line = {"Defense": "no defense", "Inversion": "a constant image"}
    dashed = f"; dashed: {line[question.kind]}" if question.kind in line else ""
    return (
        (
            "The bar",
            f"Its length is the mean over seeds, the line across its end the interval{dashed}.",
        ),
    )


def _classifier(drawn: str) -> tuple[tuple[str, str], ...]:
    return (
        (
            "What it is",
            "The share of stamped held-out images of other classes that are taken for the "
            "adversary’s class.",
        ),
        ("Direction", _LOWER),
        ("Out of", "Held-out images of all other classes, stamped with the trigger."),
        ("Reference set", "Held-out images that nobody trained on; accuracy is on them unstamped."),
        ("Samples and steps", drawn),
        ("Interval", _SHARE),
        ("Ties", _PAIRED),
    )


def _auroc(drawn: str) -> tuple[tuple[str, str], ...]:
    return (
        (
            "What it is",
            "The chance that a poisoned one scores above a clean one: 1 tells all apart, 0.5 is a "
            "guess. Under it, what else the detector judged.",
        ),
        ("Direction", f"{_HIGHER} Without an attack 0.5 is right, and nothing is coloured."),
        ("Out of", "All pairs of a poisoned and a clean one among those judged."),
        (
            "Reference set",
            "On the training set the rows the adversary changed; on generated images the trigger "
            "classifier’s verdict; for noise and prompts the adversary’s against users’.",
        ),
        ("Samples and steps", drawn),
        ("Interval", _SHARE),
        (
            "Ties",
            "AUROC ranks nothing; detectors are ranked by the share they find at 1 % false alarms.",
        ),
    )


def _detected(
    question: Question, called: Mapping[str, str], drawn: str
) -> tuple[tuple[str, str], ...]:
    late = {}
    for group in question.groups:
        # What a detector's ranking warns of is that its threshold was not fixed beforehand.
        assert isinstance(group.source, FinderRanking)
        if group.source.warning:
            late[f"{called[group.board.id]}, judging {group.subject}"] = group

    def by_board(texts: Mapping[bool, str]) -> str:
        if not late or len(late) == len(question.groups):
            return texts[not late]
        return f"{texts[True]}; but {texts[False]} on {'; '.join(late)}"

    return (
        ("What it is", f"The share of the poisoned that is found {by_board(_AT_THRESHOLD)}."),
        ("Direction", _HIGHER),
        ("Out of", "All poisoned ones judged. A seed that failed counts as finding nothing."),
        ("Reference set", f"The threshold is fixed on {by_board(_FIXED_ON)}."),
        ("Samples and steps", drawn),
        ("Interval", _SHARE),
        ("Ties", _BY_SEED),
    )


def _models() -> tuple[tuple[str, str], ...]:
    return (
        ("What it is", "The chance that a backdoored model scores above an honest one."),
        ("Direction", _HIGHER),
        ("Out of", "All pairs of a backdoored and an honest model, over all seeds."),
        ("Reference set", "Honest models of the same testbed, each once a seed."),
        ("Interval", "DeLong’s, the models of one seed as one draw."),
        ("Ties", "It ranks nothing: a few models prove little."),
    )


def _inversion(recovery: Recovery) -> tuple[tuple[str, str], ...]:
    what = recovery.what
    return (
        ("What it is", f"MSE of what the last epoch recovered to the true {what}."),
        ("Direction", f"{_LOWER} Neutral in colour is the best constant image’s error."),
        ("Out of", f"All pixels of the {what}, in [0, 1]."),
        ("Reference set", f"The true {what}, which the defender never sees."),
        ("Interval", "95 % over seeds, Student’s t on the logarithm."),
        ("Ties", f"Ranked by the ratio to the best constant image; see “Recovers the {what}”."),
    )


def _error(recovery: Recovery) -> tuple[tuple[str, str], ...]:
    what, names = recovery.what, [name for _, name in recovery.constants]
    beaten = f"the harder of {' and '.join(names)}" if len(names) > 1 else names[0]
    return (
        (
            "What it is",
            f"The last epoch’s error to the true {what} as a share of the best constant image’s. "
            f"Below 1 beyond doubt is a recovery.",
        ),
        ("Direction", _LOWER),
        ("Out of", f"All pixels of the {what}, in [0, 1]."),
        ("Reference set", f"The true {what}; {beaten}."),
        ("Interval", "95 % over seeds, Student’s t on the logarithm."),
        ("Ties", _LOGARITHMS),
    )


def _rank(question: Question) -> tuple[tuple[str, str], ...]:
    held = (
        f"A defense is better than none if its difference to no defense, paired by seed, excludes "
        f"0, against every attack. Only what is, at a loss of at most {100 * BUDGET:g} % of no "
        f"defense’s utility, is ranked above no defense. Utility only breaks ties. It holds if it "
        f"also takes away more than half of what each attack adds to an honest model’s rate; else "
        f"it defends in part."
    )
    beats = {
        "Detector": "Ranked if it finds more than it would flag of anything, against every attack; "
        "in part if that is half of it or less.",
        "Inversion": "Ranked if its error is below a constant image’s, against every attack; in "
        "part if it is half of that or more.",
    }
    ties, over = _TESTS[question.kind]
    return (
        ("What it is", beats.get(question.kind, held)),
        (
            "Below it",
            "The ranks that other draws might have given, by the number ranked by alone: 95 % of "
            f"{DRAWS:,} bootstrap draws over {over}. What shares a rank has all those of the tie.",
        ),
        ("Ties", ties),
        ("Compared", "Only inside one testbed and protocol; never across them."),
    )


def _extra(
    head: str, boards: Sequence[Board], drawn: str
) -> tuple[str, tuple[tuple[str, str], ...]]:
    fids = sorted({name for board in boards if (name := fid_name(board))})
    texts = {
        "FID added": (
            "Utility cost: FID added",
            (
                (
                    "What it is",
                    "How much the FID rises over no defense’s, as a share of it, paired by seed, "
                    "where the defense costs most.",
                ),
                ("Direction", _LOWER),
                ("Measured by", ", ".join(fids) or "no FID was measured"),
                ("Samples and steps", f"{_counted(boards)}; {drawn}"),
                ("Reference set", "The whole clean training set, in the extractor’s features."),
                ("Interval", "95 % over seeds, Student’s t."),
            ),
        ),
        "accuracy lost": (
            "Utility cost: accuracy lost",
            (
                ("What it is", "How much of no defense’s accuracy is lost, paired by seed."),
                ("Direction", _LOWER),
                ("Out of", "Clean held-out images."),
                ("Interval", "95 % over seeds, Student’s t."),
            ),
        ),
        "false alarms": ("False alarms", _ALARMS),
        "AUROC": (
            "AUROC, worst over attacks",
            tuple(
                (term, _IN_THE_CELL if term == "Interval" else text) for term, text in _auroc(drawn)
            ),
        ),
        "best epoch": ("Error of the best epoch", _BEST_EPOCH),
        "honest model": ("Error on an honest model", _HONEST_MODEL),
    }
    return texts[head]


def _drawn(boards: Sequence[Board], called: Mapping[str, str]) -> str:
    """How each testbed draws its images, as it declares it; the samples stand in every cell."""
    texts = []
    for board in boards:
        params = board.testbed.params
        drawn = [words.format(params[key]) for key, words in _DRAWING if _plain(params.get(key))]
        texts.append(f"{called[board.id]}: {', '.join(drawn) or 'not declared'}")
    return "; ".join(texts)


def _counted(boards: Sequence[Board]) -> str:
    """The fewest images behind a FID."""
    counts = [
        count
        for board in boards
        if (name := fid_name(board))
        for cell in board.cells.values()
        if (count := samples_of(cell, name))
    ]
    return f"{min(counts):,} images a seed" if counts else "not recorded"


def glossary(panels: Iterable[Panel]) -> list[Words]:
    """What every metric of these panels means, each once, in reading order of their names."""
    words = {line.words.name: line.words for panel in panels for line in panel.metrics}
    return [words[name] for name in sorted(words)]


def metric_anchor(name: str) -> str:
    """The HTML id of a metric's line in the glossary."""
    return f"m-{hashlib.sha256(name.encode(errors='backslashreplace')).hexdigest()[:8]}"


def _plain(value: object) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, str) and 0 < len(value) <= 40
    )
