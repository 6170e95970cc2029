"""YAML with line marks: plain values, and where in which file each of them stands.

The rules are those of YAML 1.2 (core schema), because those of 1.1, PyYAML's own, surprise: there `no` is a
boolean, `12:30` is 750 and `3e-4` is text. Keys given twice, unknown tags and recursive aliases are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str | int, ...]
"""Where a value stands: the keys and list indices that lead to it from the root."""

COMMAND_LINE = "command line"

_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, tuple[re.Pattern[str], str]] = {
    "null": (re.compile(r"^(?:~|null|Null|NULL|)$"), "~nN"),
    "bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "int": (re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), "-+0123456789"),
    "float": (
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+.0123456789",
    ),
}


class MarkedError(ValueError):
    """What is wrong with the text itself, complete with its place."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the plain scalars of YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}
for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, _pattern, [*_first, *([""] if _name == "null" else [])])


@dataclass
class Document:
    """Plain values, and the place of each: `file:line:column`, or `command line`."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)

    def place(self, key: Key) -> str:
        """The place of the value at `key`, or of its nearest parent that has one."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return COMMAND_LINE

    def value(self, key: Key) -> Any:
        """The value at `key`; None where there is none."""
        found: Any = self.values
        for part in key:
            entry = isinstance(found, list) and isinstance(part, int) and part < len(found)
            found = found[part] if entry else found.get(part) if isinstance(found, dict) else None
        return found

    def replace(self, key: Key, values: Mapping[str, Any]) -> None:
        """Put a part of the mapping at `key` into its place, and forget where the rest of it stood."""
        self.value(key[:-1])[key[-1]] = values
        for old in [other for other in self.places if len(other) > len(key) and other[: len(key)] == key]:
            parent = self.value(old[:-1])
            if parent is None or (isinstance(parent, dict) and old[-1] not in parent):
                del self.places[old]

    def assign(self, key: Key, value: Any) -> None:
        """Set one value from the command line, making the mappings that lead to it.

        Raises:
            MarkedError: the key runs through a list that is absent or too short, or through a plain value.
        """
        parent: Any = self.values
        for depth, part in enumerate(key[:-1]):
            part = _existing(parent, part, key[: depth + 1])
            if isinstance(parent, dict) and parent.get(part) is None:
                _existing({}, key[depth + 1], key[: depth + 2])
                parent[part] = {}
                self.places[key[: depth + 1]] = COMMAND_LINE
            parent = parent[part]
        parent[_existing(parent, key[-1], key)] = value
        for old in [other for other in self.places if other[: len(key)] == key]:
            del self.places[old]
        self.places[key] = COMMAND_LINE

    def remove(self, key: Key) -> None:
        """Forget the value at `key` of nested mappings; nothing happens where there is none."""
        parent: Any = self.values
        for part in key[:-1]:
            parent = parent.get(part) if isinstance(parent, dict) else None
        if isinstance(parent, dict):
            parent.pop(key[-1], None)


def dump(values: Any) -> str:
    """YAML text that reads back equal under either version's rules."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110)


def dotted(key: Key) -> str:
    """`a.b.0.c`; the root is called `the file`."""
    return ".".join(str(part) for part in key) or "the file"


def read_file(path: Path) -> Document:
    """Read a YAML file whose root is a mapping.

    Raises:
        MarkedError: the file is missing, unreadable, empty, not UTF-8, not YAML or not a mapping.
    """
    if path.is_dir():
        raise MarkedError(f"{path}: is a directory; name a YAML file")
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        raise MarkedError(f"{path}: no such file") from None
    except OSError as error:
        raise MarkedError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MarkedError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    root = _compose(text, str(path))
    if root is None:
        raise MarkedError(f"{path}: is empty; `durotaxis config show` prints a full configuration")
    if not isinstance(root, yaml.MappingNode):
        raise MarkedError(f"{_place(root, str(path))}: the file must hold `section: ...` mappings")
    document = Document()
    document.values = _plain(root, (), str(path), document.places, ())
    return document


def read_override(text: str) -> tuple[Key, Any]:
    """Split `a.b.0.c=value`; the value is YAML, so `[1, 2]`, `true`, `null` and `3e-4` work.

    Raises:
        MarkedError: no equals sign, an empty part, or a value that is not YAML.
    """
    name, equals, value = text.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise MarkedError(f"{COMMAND_LINE}: '{text}' is not of the form section.key=value")
    key: Key = tuple(int(part) if part.isdecimal() else part for part in parts)
    where = f"{COMMAND_LINE}: {name.strip()}"
    try:
        root = _compose(value, where)
        return key, None if root is None else _plain(root, (), where, {}, ())
    except MarkedError as error:
        reason = str(error).rpartition(": ")[2]
        raise MarkedError(f"{where}: the value is not valid YAML: {reason}  [got {value!r}]") from None


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Loader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MarkedError(f"{source}:{line}:1: not valid YAML: a character that is not allowed") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise MarkedError(f"{place}: not valid YAML: {reason}") from None


def _plain(node: yaml.Node, key: Key, source: str, places: dict[Key, str], parents: tuple[int, ...]) -> Any:
    if id(node) in parents:
        raise MarkedError(f"{_place(node, source)}: {dotted(key)}: an alias that contains itself")
    places.setdefault(key, _place(node, source))
    parents = (*parents, id(node))
    if isinstance(node, yaml.MappingNode):
        values = {}
        for name, key_node, value_node in _pairs(node, key, source):
            values[name] = _plain(value_node, (*key, name), source, places, parents)
            places[(*key, name)] = _place(key_node, source)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*key, i), source, places, parents) for i, child in enumerate(node.value)]
    return _scalar(node, key, source)


def _pairs(node: yaml.MappingNode, key: Key, source: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    first: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise MarkedError(f"{_place(key_node, source)}: {dotted(key)}: a key must be plain text")
        name = key_node.value
        if name in first:
            path = dotted((*key, name))
            raise MarkedError(
                f"{_place(key_node, source)}: {path}: given twice, first in line {first[name]}; keep one"
            )
        first[name] = key_node.start_mark.line + 1
        yield name, key_node, value_node


def _scalar(node: yaml.Node, key: Key, source: str) -> Any:
    text = node.value
    match node.tag.removeprefix(_TAG):
        case "str":
            return text
        case "null":
            return None
        case "bool" if _SCALARS["bool"][0].match(text):
            return text.lower() == "true"
        case "int" if _SCALARS["int"][0].match(text):
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        case "float" if _SCALARS["float"][0].match(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise MarkedError(f"{_place(node, source)}: {dotted(key)}: the tag {node.tag} cannot be read here")


def _existing(parent: Any, part: str | int, key: Key) -> str | int:
    if isinstance(parent, dict):
        if isinstance(part, int):
            raise MarkedError(
                f"{COMMAND_LINE}: {dotted(key)}: the file gives no list here; give the whole list, as in "
                f"{dotted(key[:-1])}='[...]'"
            )
        return part
    if isinstance(parent, list):
        if isinstance(part, int) and part < len(parent):
            return part
        raise MarkedError(
            f"{COMMAND_LINE}: {dotted(key)}: no such entry; the list has {len(parent)}, counted from 0"
        )
    raise MarkedError(f"{COMMAND_LINE}: {dotted(key)}: {dotted(key[:-1])} is a single value, not a section")


def _place(node: yaml.Node, source: str) -> str:
    return f"{source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
