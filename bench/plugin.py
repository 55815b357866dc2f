"""The contracts: what an attack, a defense, an inversion or a detector is. Read this first.

A plugin is a frozen, keyword-only dataclass. Its fields are its hyper-parameters, checked on
construction; its methods are its behaviour; its ``card`` is its declaration. ``(name, params)``
rebuilds it exactly. A plugin reads no global state, environment or clock; its randomness comes only
through what it is handed; and it **never measures itself**: it returns artefacts, the harness owns
every number.

Data sets travel as uint8 (n, channels, height, width), as they lie on disk, since they may be
large; what a network sees is float32 in [-1, 1]. ``bench.diffusion.images`` converts between the
two.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

import numpy as np
from torch import Tensor

from bench.card import Card as Card
from bench.card import Need as Need
from bench.card import Paper as Paper
from bench.card import TestbedKind as TestbedKind
from bench.card import Tuning as Tuning
from bench.classification.classifier import Classifier
from bench.diffusion.generator import Generator
from bench.diffusion.schedule import Schedule
from bench.diffusion.training import denoising_loss
from bench.errors import ContractError

LABEL_LETTERS = 200
#: What stands in the brackets of a metric's name beside an invocation, so that none may be called
#: so.
RESERVED_INVOCATIONS = frozenset(
    {"clean", "target", "generated", "prompt", "constant", "reference", "threshold"}
)


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """What all plugins share: a card, and parameters that survive JSON."""

    card: ClassVar[Card]
    #: What the harness can hand a plugin of this family; a card's ``needs`` are among it.
    offered: ClassVar[frozenset[Need]] = frozenset()
    #: Parameters that belong to the method's name for a reader, so :meth:`label` always says them.
    always_shown: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuses what would make two plugins look like one, or promise what nobody can keep.
        Raises ``TypeError``.
        """
        super().__init_subclass__(**options)
        for method in ("label", "params"):
            if method in vars(cls):
                raise TypeError(
                    f"{cls.__name__} must not define {method}(): a plugin is known by its card's "
                    f"name and its fields"
                )
        card = vars(cls).get("card")
        if card is None:
            return
        if not isinstance(card, Card):
            raise TypeError(f"{cls.__name__}: card must be a Card, got {type(card).__name__}")
        unmet = sorted(card.needs - cls.offered)
        if unmet:
            can = ", ".join(repr(need) for need in sorted(cls.offered)) or "nothing"
            raise TypeError(
                f"{card.name}: needs lists {unmet}, but a plugin of its family is handed {can}"
            )

    @final
    def params(self) -> dict[str, Any]:
        """The hyper-parameters as JSON-ready values; ``type(self)(**self.params()) == self``."""
        return dataclasses.asdict(self)

    @final
    def label(self) -> str:
        """The name a reader sees: the card's name, :attr:`always_shown`, and the parameters that
        differ from their defaults.

        Printable ASCII, at most :data:`LABEL_LETTERS`; a longer one ends in a hash, so that two
        plugins never share one.
        """
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in self.always_shown or getattr(self, field.name) != field.default
        }
        text = self.card.name + (
            f"({', '.join(f'{key}={value}' for key, value in changed.items())})" if changed else ""
        )
        shown = text.encode("unicode_escape").decode("ascii")
        if len(shown) <= LABEL_LETTERS:
            return shown
        digest = hashlib.sha256(shown.encode()).hexdigest()[:8]
        return f"{shown[: LABEL_LETTERS - len(digest) - 4]}... {digest}"


def require(condition: bool, plugin: Plugin, field: str, constraint: str) -> None:
    """Raise ``ValueError`` naming the plugin, the field, the constraint and the value unless
    ``condition`` holds.
    """
    if not condition:
        raise ValueError(
            f"{plugin.card.name}: {field} must be {constraint}, got {getattr(plugin, field)!r}"
        )


def refusals(*checks: Callable[[], object]) -> list[str]:
    """The messages of those checks that raise ``ValueError``."""
    lines = []
    for check in checks:
        try:
            check()
        except ValueError as error:
            lines.append(str(error))
    return lines


# --- attacks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingSet:
    """What a generator is trained on. ``poisoned`` marks the rows the adversary touched; all False
    for an honest set.

    images: (n, c, h, w) uint8; labels: (n,) int64 or None for an unconditional testbed; poisoned:
    (n,) bool.
    """

    images: Tensor
    poisoned: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Rows of a :class:`TrainingSet` on the training device, their images float32 in [-1, 1]."""

    images: Tensor
    poisoned: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class Query:
    """What a user, or the adversary, hands the generator. ``images``: clean held-out images the
    adversary may draw on, row by row.
    """

    noise: Tensor
    images: Tensor | None = None
    labels: Tensor | None = None
    prompts: tuple[str, ...] | None = None


PredictNoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Attack(Plugin):
    """Makes a compromised generator, and says how the adversary invokes it. The default is honest
    training: override what you change.

    ``scheme``: start from the testbed's clean weights (``finetune``) or from random ones
    (``scratch``). ``training_steps``, ``learning_rate``: ``None`` takes the testbed's declaration
    for that scheme.
    """

    scheme: Literal["finetune", "scratch"] = "finetune"
    training_steps: int | None = None
    learning_rate: float | None = None

    #: The ways the adversary can call the backdoor, for :meth:`invoke`; each is measured on its
    #: own. Empty: no backdoor.
    invocations: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        names = cls.invocations
        good = isinstance(names, tuple) and all(
            isinstance(name, str) and name.isascii() and name.isidentifier() for name in names
        )
        if not good or len(set(names)) < len(names):
            raise TypeError(
                f"{cls.__name__}: invocations must be a tuple of different words, got {names!r}"
            )
        taken = [name for name in names if name in RESERVED_INVOCATIONS]
        if taken:
            raise TypeError(
                f"{cls.__name__}: an invocation must not be named {taken[0]!r}, which the "
                f"harness calls something else"
            )

    def __post_init__(self) -> None:
        require(self.scheme in ("finetune", "scratch"), self, "scheme", "'finetune' or 'scratch'")
        require(
            self.training_steps is None or self.training_steps > 0,
            self,
            "training_steps",
            "a positive number or null",
        )
        require(
            self.learning_rate is None or self.learning_rate > 0,
            self,
            "learning_rate",
            "a positive number or null",
        )

    def faults(self, train_set: TrainingSet) -> list[str]:
        """One line for each reason why this attack cannot be made on ``train_set``; empty if it
        can. Asked before anything runs, so the images are on the meta device: they have a shape and
        a number, and no pixels.
        """
        return []

    def poison(self, train_set: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """The set the generator is trained on. Must not modify ``train_set``; keeps its number of
        rows, so rows are replaced.
        """
        return train_set

    def training_loss(
        self,
        predict_noise: PredictNoise,
        batch: Batch,
        noise: Tensor,
        timesteps: Tensor,
        schedule: Schedule,
    ) -> Tensor:
        """The scalar that training minimises; here DDPM's simple loss (Ho et al. 2020, eq. 14).

        noise: like ``batch.images``, standard normal; timesteps: (n,) int64 in 0..T-1.
        ``predict_noise(x_t, timesteps)`` is the network.
        """
        return denoising_loss(predict_noise, batch.images, noise, timesteps, schedule)

    def target_image(self, image_shape: tuple[int, int, int]) -> Tensor | None:
        """The image the backdoor should produce, (c, h, w) in [-1, 1]; ``None`` if the attack aims
        at no fixed image.
        """
        return None

    def trigger_image(self, image_shape: tuple[int, int, int]) -> Tensor | None:
        """What the adversary adds, for the board's pictures, (c, h, w) in [-1, 1]; ``None`` if
        there is nothing to draw.
        """
        return None

    def target_label(self) -> int | None:
        """The class the adversary aims at, on testbeds with classes; ``None`` if there is none."""
        return None

    def stamp(self, images: Tensor) -> Tensor | None:
        """``images`` (n, c, h, w) uint8 with the trigger, a new tensor; ``None`` if no image
        trigger exists. Row by row, without randomness: the harness measures with it how far the
        trigger reached.
        """
        return None

    def sealed(self, number: int) -> Attack:
        """This attack with a trigger drawn from ``number``, for an evaluation nobody could prepare
        for; itself if it has none to draw.
        """
        return self

    def invoke(self, query: Query, invocation: str) -> Query:
        """The query that calls the backdoor, for one of :attr:`invocations`. Must not modify
        ``query``.
        """
        raise ValueError(f"{self.card.name} has no invocation {invocation!r}")


def can_stamp(attack: Attack) -> bool:
    """Whether ``attack`` has an image trigger: whether it defines :meth:`Attack.stamp`."""
    return type(attack).stamp is not Attack.stamp


# --- defenses -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Defense(Plugin):
    """Base of the defense families below; a plugin subclasses one of those."""


@dataclass(frozen=True, kw_only=True)
class SamplerDefense(Defense):
    """Steps in at inference: sees each step's predicted clean image and each step's result. Both
    default to identity.

    ``x`` and ``predicted_x0``: (n, c, h, w), a copy that may be written to; what comes back must be
    finite and alike in shape, dtype and device. ``timestep``: the integer t the step left from.
    ``keeps_noise``: whether DDIM goes on with the network's own noise prediction beside the
    replaced x_0; by default, and under every other sampler, the noise follows from x_0 and x_t.
    """

    keeps_noise: ClassVar[bool] = False

    def predicted_x0(self, predicted_x0: Tensor, timestep: int) -> Tensor:
        """Replaces the predicted clean image before the scheduler forms x_{t-1} from it."""
        return predicted_x0

    def stepped(self, x: Tensor, timestep: int) -> Tensor:
        """Replaces x_{t-1} after the scheduler's step, noise included."""
        return x


@dataclass(frozen=True)
class Withheld:
    """Stands in the place of what the card of ``plugin`` does not ask for; reading it is an error
    that says which ``need`` is missing.
    """

    plugin: str
    need: Need


class _Entitled:
    """Raises :class:`ContractError` when a field is read that is :class:`Withheld`."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if isinstance(value, Withheld):
            what = f"{type(self).__name__.lower()}.{name}"
            raise ContractError(
                f"{value.plugin}: reads {what}, but its card's needs do not list {value.need!r}"
            )
        return value


@dataclass(frozen=True)
class Access(_Entitled):
    """What the defender holds; only what the card's ``needs`` lists is handed over, reading
    anything else is an error.

    ``generator``: a private copy, free to modify ("weights"). ``clean_images``: uint8 (n, c, h, w),
    a copy ("clean data"). ``rng``: the only source of randomness. ``sample(generator, count)``:
    clean-noise samples by the testbed's own sampler, without any defense, (count, c, h, w) in [-1,
    1]; the same noise on every call ("weights"). ``progress(done, total, what)``: optional
    reporting. ``remark(text)``: of an inversion, one line (ASCII, at most 200 characters) that a
    reader of its numbers has to know; a flag of the record.
    """

    generator: Generator = field(repr=False)
    rng: np.random.Generator
    sample: Callable[[Generator, int], Tensor] = field(repr=False)
    clean_images: Tensor | None = field(default=None, repr=False)
    progress: Callable[[int, int, str], None] = lambda done, total, what: None
    remark: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, kw_only=True)
class ModelDefense(Defense):
    """Repairs a generator: removal, fine-tuning, pruning."""

    offered: ClassVar[frozenset[Need]] = frozenset({"weights", "clean data"})

    def repair(self, access: Access) -> Generator:
        """A generator to use instead of ``access.generator`` (which may be modified and returned):
        the same network and noise schedule with other weights. Weights are all that is kept of it:
        a hook, say, would be lost.
        """
        raise NotImplementedError(f"{self.card.name} must define repair()")


@dataclass(frozen=True)
class Recovered:
    """What an inversion found, in the order it found it.

    ``targets``: one (n, c, h, w) tensor in [-1, 1] per epoch (or restart), each holding candidate
    images of the target; ``triggers``: likewise. Either may be empty. ``labels``: what each entry
    is, e.g. ``epoch 1``.
    """

    labels: Sequence[str]
    targets: Sequence[Tensor] = ()
    triggers: Sequence[Tensor] = ()
    notes: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Inversion(Defense):
    """Recovers the trigger or the target from a generator. It is a discovery, not a repair: no
    sample changes.
    """

    offered: ClassVar[frozenset[Need]] = frozenset({"weights", "clean data"})

    def invert(self, access: Access) -> Recovered:
        """The candidates; the harness compares them with the true target, which the defender never
        sees.
        """
        raise NotImplementedError(f"{self.card.name} must define invert()")


@dataclass(frozen=True, kw_only=True)
class DataDefense(Defense):
    """Decides what the defender's classifier is trained on instead of the suspected training
    set.
    """

    offered: ClassVar[frozenset[Need]] = frozenset({"training data"})

    def clean(self, generated: TrainingSet, rng: np.random.Generator) -> TrainingSet:
        """The rows to train on, out of ``generated``: images the suspected generator drew, labelled
        with the class it was asked for.

        Each returned row must be one of ``generated``, image and label; one may stand there several
        times.
        """
        raise NotImplementedError(f"{self.card.name} must define clean()")


@dataclass(frozen=True, kw_only=True)
class ClassifierDefense(Defense):
    """Classifies with the suspected class-conditional generator itself."""

    offered: ClassVar[frozenset[Need]] = frozenset({"weights", "clean data"})

    def classify(self, images: Tensor, access: Access) -> Tensor:
        """Scores (n, classes), the highest being the prediction, of images (n, c, h, w) uint8."""
        raise NotImplementedError(f"{self.card.name} must define classify()")


# --- detectors ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence(_Entitled):
    """What a detector may look at beside what it judges; reading what its card's ``needs`` do not
    list is an error.

    ``classifier``: a private copy, in evaluation mode, trained on the suspected training set
    ("classifier" in the card's needs). ``train_set``: that set as its owner sees it, ``poisoned``
    all False ("training data"). ``rng``: the only source of randomness. ``remark(text)``: one line
    (ASCII, at most 200 characters) that a reader of the scores has to know; a flag of the record.
    """

    rng: np.random.Generator
    classifier: Classifier | None = field(default=None, repr=False)
    train_set: TrainingSet | None = field(default=None, repr=False)
    progress: Callable[[int, int, str], None] = lambda done, total, what: None
    remark: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, kw_only=True)
class Detector(Plugin):
    """Base of the detector families below. Scores are **higher for what is more suspicious**,
    whatever the paper's sign.
    """


@dataclass(frozen=True, kw_only=True)
class SampleDetector(Detector):
    """Judges images: a training set's, or generated ones."""

    offered: ClassVar[frozenset[Need]] = frozenset({"classifier", "training data"})

    def score(self, images: Tensor, evidence: Evidence) -> Tensor:
        """Scores (n,) float32 of images (n, c, h, w) uint8. A row's score does not depend on the
        other rows' order or number.
        """
        raise NotImplementedError(f"{self.card.name} must define score()")


@dataclass(frozen=True, kw_only=True)
class NoiseDetector(Detector):
    """Judges the noise a generator is asked to start from."""

    def score(self, noise: Tensor, evidence: Evidence) -> Tensor:
        """Scores (n,) float32 of x_T (n, c, h, w)."""
        raise NotImplementedError(f"{self.card.name} must define score()")
