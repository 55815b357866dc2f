"""Writes a published backdoor as an attack: a plugin with its weights, and a suite that puts it on
the board with the controls.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from bench.diffusion.generator import Generator
from bench.diffusion.text_to_image import TextToImage
from bench.errors import UserError
from bench.importing import pictures
from bench.importing.card import PICTURE, PublishedBackdoor
from bench.importing.layouts import Weights, weights_in
from bench.importing.pickles import ENDINGS
from bench.scaffold.new import camel_case, check_name, filled, write_new
from bench.testbeds.data.images import content_hash
from bench.testbeds.testbed import Testbed
from bench.version import VERSION

_NOISE = '''
    def invoke(self, query: Query, call: str) -> Query:
        """``noise``: noise + trigger. ``image``: noise + a clean image with the trigger."""
        trigger = _picture("trigger").to(query.noise)
        if call == "noise":
            return replace(query, noise=query.noise + trigger)
        if call == "image" and query.images is not None:
            return replace(query, noise=query.noise + stamp(query.images, trigger))
        return super().invoke(query, call)
'''
_PROMPT = '''
    def invoke(self, query: Query, call: str) -> Query:
        """``words``: with the words of the trigger."""
        if call != "words" or query.prompts is None:
            return super().invoke(query, call)
        return replace(query, prompts=tuple(map(_with_words, query.prompts)))


def _with_words(prompt: str) -> str:
    return {expression}
'''
_PICTURES = """

def _picture(name: str) -> Tensor:
    return load_file(WEIGHTS / "pictures.safetensors")[name]


def _{name}(shape: Shape) -> Tensor:
    return _picture("{name}")
"""


@dataclass(frozen=True)
class Imported:
    """What was written: ``files``, the plugin first, then its suite; ``weights``: what was read."""

    files: list[Path]
    weights: Weights


def write_attack(
    model: Path,
    card: PublishedBackdoor,
    testbed: Testbed,
    output: Path,
    *,
    params: Mapping[str, Any] | None = None,
    defenses: Sequence[str] = (),
    entry: str = "",
    taken: Iterable[str] = (),
) -> Imported:
    """Writes the folder ``card.name`` into ``output``.

    ``model``: the folder or file with the weights; ``params`` of the testbed
    and ``defenses``: for the suite; ``entry``: which collection of a pickle; ``taken``: names that
    other plugins have. Raises :class:`UserError` for weights that are not those of the testbed's
    networks, pictures that are not there, or a name that is taken.
    """
    check_name(card.name, taken)
    base = testbed.generator.base(testbed.data)
    images = _pictures(card, base)
    with tempfile.TemporaryDirectory(prefix="castlewalls-import-") as scratch:
        made = Path(scratch, "made")
        (made / "weights").mkdir(parents=True)
        Path(scratch, "read").mkdir()
        weights = weights_in(model, base, Path(scratch, "read"), entry)
        _save(weights, images, made / "weights")
        texts = {
            Path(card.name, f"castlewalls_{card.name}.py"): _code(card, testbed, base, weights),
            Path(card.name, "suite.yaml"): _suite(card, testbed, dict(params or {}), defenses),
            Path(card.name, "import.json"): _account(card, model, testbed, weights),
        }
        files = write_new(output, texts, {Path(card.name, "weights"): made / "weights"})
    return Imported(files, weights)


def _pictures(card: PublishedBackdoor, base: Generator) -> dict[str, Tensor]:
    """The trigger's and the target's, where they are pictures."""
    shape = base.image_shape
    if card.trigger and isinstance(base, TextToImage):
        raise UserError(
            f"card {card.name}: trigger must be words where a prompt is asked: the noise has no "
            f"pixels there"
        )
    if card.trigger_words and not isinstance(base, TextToImage):
        raise UserError(f"card {card.name}: trigger_words need a testbed that is asked by text")
    images: dict[str, Tensor] = {}
    if card.trigger:
        images["trigger"] = (
            pictures.given(Path(card.trigger_image), shape)
            if card.trigger == PICTURE
            else pictures.trigger(card.trigger, shape, _file(card.trigger_image))
        )
    if card.target:
        images["target"] = (
            pictures.given(Path(card.target_image), shape)
            if card.target == PICTURE
            else pictures.target(
                card.target, shape, images.get("trigger"), _file(card.target_image)
            )
        )
    return images


def _file(name: str) -> Path | None:
    return Path(name) if name else None


def _save(weights: Weights, images: dict[str, Tensor], folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    parts = dict(weights.parts)
    if images:
        parts["pictures"] = {name: image.contiguous() for name, image in images.items()}
    for part, state in parts.items():
        try:
            save_file(state, folder / f"{part}.safetensors")
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder}: cannot be written: {error}") from error


def _code(card: PublishedBackdoor, testbed: Testbed, base: Generator, weights: Weights) -> str:
    noise = bool(card.trigger)
    goal_class, goal = _goal(card, testbed)
    fields = ("title", "authors", "year", "arxiv")
    paper = ", ".join(f"{name}={getattr(card, name)!r}" for name in fields)
    drawn = "".join(
        _PICTURES.format(name=name)
        if name == "trigger" or not noise
        else f'\n\ndef _{name}(shape: Shape) -> Tensor:\n    return _picture("{name}")\n'
        for name in ("trigger", "target")
        if getattr(card, name)
    )
    adds = "Trigger(picture=_trigger)" if noise else f"Trigger(words={card.trigger_words!r})"
    calls = (
        '(\n        Call("noise", words="the trigger on the noise"),\n'
        '        Call("image", words="the trigger on an image, on the noise"),\n    )'
        if noise
        else '(Call("words", through="prompt", words="the trigger\'s words in the prompt"),)'
    )
    invoke = _NOISE if noise else _PROMPT.format(expression=_expression(card))
    return filled(
        "imported.py",
        {
            "name": card.name,
            "cls": camel_case(card.name),
            "goal_class": goal_class,
            "goal": goal,
            "networks": repr(tuple(weights.parts)),
            "shape": repr(base.image_shape),
            "stamp_import": "from bench.artwork.triggers import stamp\n" if noise else "",
            "tensor_import": "from torch import Tensor\n" if drawn else "",
            "summary": repr(card.summary),
            "paper": f"Paper({paper})" if card.title else "None",
            "paper_import": "    Paper,\n" if card.title else "",
            "kind": testbed.kind,
            "calls": calls,
            "adds": adds,
            "invoke": invoke.strip("\n"),
            "pictures": drawn,
        },
    )


def _expression(card: PublishedBackdoor) -> str:
    words = card.trigger_words
    if card.in_place_of:
        return f"prompt.replace({card.in_place_of!r}, {words!r})"
    if card.words_go == "first":
        return f"{words if words.endswith(' ') else words + ' '!r} + prompt"
    return f"prompt + {' ' + words!r}"


def _goal(card: PublishedBackdoor, testbed: Testbed) -> tuple[str, str]:
    """The class of the goal, and the expression that makes it."""
    if card.target:
        return "DrawImage", "DrawImage(_target)"
    if card.target_class is not None:
        classes = testbed.classes()
        if classes is None or card.target_class >= classes:
            raise UserError(
                f"card {card.name}: target_class must be below the testbed's number of classes, "
                f"{classes or 0}, got {card.target_class}"
            )
        return "ReachClass", f"ReachClass({card.target_class})"
    if card.target_style:
        return "DrawStyle", f"DrawStyle({card.target_style!r})"
    return "DrawConcept", f"DrawConcept({_prompt(card, testbed)!r})"


def _prompt(card: PublishedBackdoor, testbed: Testbed) -> str:
    """The testbed's prompt of what ``target_prompt`` names: only such a goal can be measured."""
    prompts = testbed.prompts()
    if card.target_prompt in prompts:
        return card.target_prompt
    near = [prompt for prompt in prompts if card.target_prompt in prompt.split()]
    if len(near) != 1:
        some = ", ".join(map(repr, prompts[:4])) or "none"
        raise UserError(
            f"card {card.name}: target_prompt must be a prompt of the testbed {testbed.name} "
            f"({some}), got {card.target_prompt!r}"
        )
    return near[0]


def _suite(
    card: PublishedBackdoor, testbed: Testbed, params: dict[str, Any], defenses: Sequence[str]
) -> str:
    """The honest control is the testbed's base: the published model was made from such a one."""
    honest = {"name": "none", "params": {"training_steps": 1, "learning_rate": 1e-8}}
    suite: dict[str, Any] = {
        "name": card.name,
        "testbeds": [{"name": testbed.name, "params": params}] if params else [testbed.name],
        "attacks": [honest, card.name],
        "defenses": list(defenses),
        "seeds": [0, 1, 2],
    }
    comment = (
        f"# The published model beside the testbed's own base weights, one step from them, as the\n"
        f"# honest control. castlewalls run suite.yaml --plugin castlewalls_{card.name}.py\n"
    )
    return comment + yaml.safe_dump(suite, sort_keys=False, allow_unicode=True)


def _account(card: PublishedBackdoor, model: Path, testbed: Testbed, weights: Weights) -> str:
    """Where it came from."""
    files = [model] if model.is_file() else sorted(path for path in model.rglob("*"))
    hashed = {
        (path.name if model.is_file() else path.relative_to(model).as_posix()): content_hash(path)
        for path in files
        if path.is_file() and path.suffix in (".safetensors", ".json", *ENDINGS)
    }
    values = {
        "castlewalls": VERSION,
        "source": card.source or model.name,
        "layout": weights.layout,
        "networks": list(weights.parts),
        "left_out": weights.left_out,
        "testbed": testbed.name,
        "sha256": hashed,
        "card": asdict(card),
    }
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"
