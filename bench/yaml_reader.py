"""Reads YAML files as plain values: no tags, no repeated keys, no exponentially growing aliases.

PyYAML silently keeps the last of two equal keys, so a list of attacks could be lost. Merge keys
(``<<``) work as usual.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UserError
from bench.names import brief
from bench.text import one_line

LARGEST_FILE = 16 * 2**20
#: The limit of values in a file with all aliases expanded: nine lines of aliases can mean 10^9.
MOST_VALUES = 100_000
DEEPEST = 50
_MERGE = "tag:yaml.org,2002:merge"
#: Plain numbers in which YAML 1.1, which PyYAML reads, sees base 8 or base 60, and YAML 1.2 and
#: most people do not: 010 is 8, 1:30 is 90.
_OTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|[0-9_]+(:[0-9_]+)+(\.[0-9_]*)?)")
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(path: Path) -> Any:
    """The one document in ``path``, ``None`` if it is empty. Raises :class:`UserError`, one line
    with the file's name in front.
    """
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise UserError(f"{path.name} must be at most {LARGEST_FILE:,} bytes, got {size:,}")
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except yaml.reader.ReaderError as error:
        problem = f"{error.reason}, got character U+{error.character:04X}"
        raise UserError(f"{path.name}: not valid YAML: {problem}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UserError(f"{path.name}:{line} not valid YAML: {problem}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} cannot be read: {error}") from error
    except (ValueError, OverflowError) as error:  # an escape of a character that there is not
        raise UserError(f"{path.name}: not valid YAML: {one_line(str(error), 100)}") from error


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        start = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > DEEPEST:
            raise yaml.constructor.ConstructorError(
                None, None, f"nested more than {DEEPEST} levels deep", start
            )
        aliased = self.check_event(yaml.AliasEvent)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if aliased and node not in self._values:
            raise yaml.constructor.ConstructorError(
                None, None, "an anchor must not hold an alias of itself", start
            )
        if isinstance(node, yaml.MappingNode) and not aliased:
            # Checked here and not when the mapping is built: merging adds keys that are overridden.
            self._refuse_repeated(node)
        if not aliased:
            self._values[node] = 1 + sum(self._values[child] for child in _children(node))
        if self._values[node] > MOST_VALUES:
            problem = f"more than {MOST_VALUES:,} values, counting what aliases repeat"
            raise yaml.constructor.ConstructorError(None, None, problem, start)
        return node

    def _refuse_repeated(self, node: yaml.MappingNode) -> None:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = "<<" if key.tag == _MERGE else self.construct_object(key)
            if not isinstance(name, Hashable):
                problem = "a field's name must be text or a number, got a collection"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            if name in lines:
                hint = "; merge several with <<: [*a, *b]" if key.tag == _MERGE else ""
                problem = f"{brief(name)} is here twice, first in line {lines[name]}{hint}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replaces merge keys by what they merge: a mapping's own keys win, then the first of
        several mappings. PyYAML's own method treats earlier merges differently, depending on the
        release.
        """
        own: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            if key.tag != _MERGE:
                own[_identity(key)] = (key, value)
                continue
            for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(source, yaml.MappingNode):
                    problem = f"<< must merge a mapping or a list of mappings, got a {source.id}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                self.flatten_mapping(source)
                for pair in source.value:
                    merged.setdefault(_identity(pair[0]), pair)
        node.value = list({**merged, **own}.values())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag in _NUMBERS and _OTHER_BASE.fullmatch(str(node.value)):
            problem = (
                f"{brief(node.value)[1:-1]} is a number of base 8 or 60 in YAML 1.1; write "
                f"it in decimals, or in quotes if it is text"
            )
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, LookupError, AttributeError) as error:
            # A number of too many digits, the 31st of February, text that is tagged as a number.
            kind = node.tag.rpartition(":")[2]
            why = "" if isinstance(error, LookupError | AttributeError) else f" ({error})"
            problem = f"{brief(node.value)} is not a value of type {kind}{why.split(';')[0]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


def _identity(key: yaml.Node) -> Any:
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
