"""Every check of a plugin: the contract's own, how it behaves, and what it does to a backdoor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.checking import conduct, effect, written
from bench.checking.question import DECLARE, RETURN, Check
from bench.contracts import checks
from bench.contracts.detector import Detector
from bench.contracts.plugin import Plugin

_ROW = (
    "compute each row from that row alone: no mean, quantile or sort over the first axis, and no "
    "draw whose number depends on it"
)
_SEED = (
    "draw from access.rng alone (torch: torch.Generator().manual_seed(int(access.rng.integers("
    "2**63)))), never from a global generator, and iterate over nothing unordered"
)
_INIT = "call super().__post_init__() first in your own __post_init__"

#: By the name of the function: what holds if it is kept, and how it is mended.
WORDS: dict[str, tuple[str, str]] = {
    "parameters_survive_json": (
        "parameters survive JSON",
        "keep to numbers, texts, true or false and None; a tuple comes back as a list, so turn it "
        "back in __post_init__",
    ),
    "a_plugin_is_frozen": (
        "the dataclass is frozen",
        "decorate the class with @dataclass(frozen=True, kw_only=True)",
    ),
    "not_a_number_is_refused": ("NaN is refused as a parameter", _INIT),
    "constraints_are_kept": ("values outside a parameter's bounds are refused", _INIT),
    "a_goal_can_be_drawn": (
        "the goal can be drawn",
        "return DrawImage(function), whose function gives (c, h, w) in [-1, 1] for every shape, "
        "DrawFromSet(function) with 16 images or more, always the same, ReachClass, DrawConcept or "
        "DrawStyle; an attack without calls may return None",
    ),
    "a_stamp_is_of_its_row": (
        "the trigger's stamp is the same for a row alone",
        "work on images.clone(), return uint8 of the same shape, and draw nothing at random",
    ),
    "calls_are_of_their_row": (
        "each call changes the query, row by row, and leaves its own alone",
        "return dataclasses.replace(query, noise=...) made from a copy, without randomness",
    ),
    "poisoning_is_repeatable": (
        "poison() is repeatable, marks its rows and leaves the set alone",
        "work on train_set.images.clone(), draw from rng, keep the number of rows, mark the rows "
        "in poisoned, and say what the card alters",
    ),
    "training_gives_a_gradient": (
        "training_loss() is one finite number that reaches the weights",
        "return a mean over rows of what step.predict_noise says, drawing nothing at random",
    ),
    "learning_is_repeatable": (
        "begin() and learn() give finite tensors, the same for the same batch",
        "return new float32 tensors by name, of the shapes that begin() gave, and draw nothing at "
        "random: step.noise is there",
    ),
    "implanting_is_repeatable": ("implant() edits the weights, the same for the same seed", _SEED),
    "a_sampler_defense_steps_in": (
        "it steps in during sampling",
        "define predicted_x0(self, predicted_x0, timestep) or stepped(self, x, timestep)",
    ),
    "sampler_steps_are_of_their_row": ("each row is treated alone, in the same shape", _ROW),
    "sampling_is_repeatable": (
        "samples depend neither on the batch size nor on the run",
        f"keep no state between calls; {_ROW}",
    ),
    "repair_is_repeatable": ("repair() gives the same finite weights for the same seed", _SEED),
    "inversion_is_repeatable": ("invert() recovers pictures, the same for the same seed", _SEED),
    "cleaning_is_repeatable": ("clean() gives the same rows for the same seed", _SEED),
    "classification_is_of_its_row": (
        "classify() gives finite scores, the same for a few rows alone",
        f"{_ROW}; draw from access.rng alone",
    ),
    "scores_are_of_their_row": (
        "score() is repeatable, and a row's score the same among other rows and in another order",
        f"{_ROW}; draw from access.rng before looking at the rows",
    ),
    "results_are_as_declared": (
        "results have the declared type, shape and range, without NaN",
        RETURN,
    ),
    "only_declared_needs_are_read": (
        "nothing is read that the card's needs do not list",
        DECLARE,
    ),
    "global_state_is_left_alone": (
        "torch's switches, the random state and other modules stay as they were",
        "use a context (torch.no_grad(), torch.autocast(...), torch.random.fork_rng(devices=[])), "
        "draw from access.rng, and replace nothing in other modules",
    ),
    "it_keeps_to_itself": (
        "no network, no other process, no file outside",
        "take everything from what is handed over; list files beside the plugin in Card(files=...)",
    ),
    "scores_point_the_right_way": (
        "poisoned scores are higher on the planted backdoor",
        "return the score with its sign reversed: higher is more suspicious, whatever the paper's "
        "sign",
    ),
    "the_card_is_written": (
        "the card says what it is and whose",
        "write it, with paper=None if there is none",
    ),
    "effect_is_measured": ("effect on the planted backdoor, beside none", ""),
}


_OF_EVERY_PLUGIN = (
    checks.parameters_survive_json,
    checks.a_plugin_is_frozen,
    checks.not_a_number_is_refused,
    checks.constraints_are_kept,
)


def checks_for(plugin: Plugin) -> list[Check]:
    """The checks that apply to ``plugin``, in an order in which the first failure says most."""
    contract = checks.checks_for(plugin)
    last = (
        effect.scores_point_the_right_way
        if isinstance(plugin, Detector)
        else effect.effect_is_measured
    )
    of_results = {*contract, last} - {*_OF_EVERY_PLUGIN, checks.a_sampler_defense_steps_in}
    functions: list[Callable[[Any], str | None]] = [
        *(function for function in contract if function in _OF_EVERY_PLUGIN),
        conduct.results_are_as_declared,
        conduct.only_declared_needs_are_read,
        conduct.global_state_is_left_alone,
        conduct.it_keeps_to_itself,
        *(function for function in contract if function not in _OF_EVERY_PLUGIN),
        written.the_card_is_written,
        last,
    ]
    return [
        Check(function.__name__, *WORDS[function.__name__], function, function in of_results)
        for function in functions
    ]
