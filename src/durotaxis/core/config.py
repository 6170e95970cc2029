"""Configuration: frozen pydantic models, one YAML file, errors with file, line and column.

Every error of a file and of the overrides on top of it is reported at once, one per line:

    run.yaml:4:21: env.substrate.slpoe: unknown key (did you mean 'slope'?)  [got 24]
    command line: actor_critic.use_was: unknown key (did you mean 'use_wsa'?)  [got True]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from durotaxis.core.errors import UserError
from durotaxis.core.marks import Document, Key, MarkedError, dotted, dump, read_file, read_override
from durotaxis.core.spelling import did_you_mean


class Config(BaseModel):
    """Base of every section: frozen; unknown keys refused; numbers finite, and never `true` or `false`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    other_spellings: ClassVar[Mapping[str, str]] = {}
    """Accepted key -> the dotted key it stands for; an override with either replaces what a file says."""

    @classmethod
    def under_override(cls, section: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """What still stands of a file's section when an override sets `key` of it; by default everything.

        It is asked before the first override is assigned, so no override loses its value.
        """
        return section

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and info.field_name in cls.model_fields:
            wanted = set(_leaves(cls.model_fields[info.field_name].annotation))
            if wanted & {int, float} and bool not in wanted:
                raise ValueError("a number is wanted, not true or false")
        return value


Model = TypeVar("Model", bound=Config)


class ConfigError(UserError):
    """All that is wrong with a configuration, one line per error.

    Attributes:
        lines: `file:line:column: path: message`, or `command line: path: message`.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class KeyedError(ValueError):
    """What a validator raises to blame one key below the model it checks: `KeyedError("scenario", "...")`.

    Args:
        path: the key, dotted (`substrate.slope`, `ptms.0`).
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path: Key = tuple(int(part) if part.isdecimal() else part for part in path.split("."))


def load_config(path: Path | str | None, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file and check it against a model.

    Args:
        path: the file; None starts from the model's defaults.
        model: the model of the whole file.
        overrides: `a.b.c=value`, the value in YAML; entries of a list are named by their index.

    Raises:
        ConfigError: all that is wrong, at once.
    """
    document, lines = _read(path, overrides, lambda key: _model_at(model, key))
    for name, value in document.values.items():
        if value is None and any(issubclass(leaf, Config) for leaf in _leaves_at(model, name)):
            document.values[name] = {}  # a section whose every line is commented out
    config = _validate(document, model, document.values, (), lines)
    if config is None:
        raise ConfigError(lines)
    return config


def load_sections(
    path: Path | str | None, models: Mapping[str, type[Config]], overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Read only the named sections of a YAML file; sections it lacks get their defaults.

    Args:
        path: the file; None starts from the models' defaults.
        models: section name -> model; other sections of the file are not looked at.
        overrides: as in `load_config`; each must name one of these sections.

    Raises:
        ConfigError: all that is wrong with these sections, at once.
    """
    document, lines = _read(
        path, overrides, lambda key: _model_at(models[key[0]], key[1:]) if key[0] in models else None
    )
    for name in (override.partition("=")[0].strip() for override in overrides):
        if name.partition(".")[0] not in models:
            lines.append(f"command line: {name}: must start with one of: {', '.join(models)}")
    sections: dict[str, Any] = {}
    for name, model in models.items():
        values = document.values.get(name)
        sections[name] = _validate(document, model, {} if values is None else values, (name,), lines)
    if lines:
        raise ConfigError(lines)
    return sections


def build_config(model: type[Model], values: Mapping[str, Any], place: str = "config") -> Model:
    """Check values that were put together in Python against a model.

    Args:
        model: the model of the whole mapping.
        values: plain values, as a YAML file would hold them; sections may already be models.
        place: what the errors call it.

    Raises:
        ConfigError: all that is wrong, at once, one line each: `place: key: message`.
    """
    lines: list[str] = []
    config = _validate(Document(dict(values), {(): place}), model, values, (), lines)
    if config is None:
        raise ConfigError(line.replace(f"{place}: {dotted(())}: ", f"{place}: ", 1) for line in lines)
    return config


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`; mappings on both sides are merged, all else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = merge(inner, value)
        else:
            merged[key] = value
    return merged


def to_yaml(config: Config) -> str:
    """Every value of a configuration, defaults included, as YAML that loads back equal."""
    return dump(config.model_dump(mode="json"))


def to_schema(model: type[Config]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a model, for editors and other tools."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}


def _read(
    path: Path | str | None,
    overrides: Sequence[str],
    model_at: Callable[[Any], type[Config] | None],
) -> tuple[Document, list[str]]:
    """The document with the overrides that can be applied, and what is wrong with the others."""
    try:
        document = Document() if path is None else read_file(Path(path))
    except MarkedError as error:
        raise ConfigError([str(error)]) from None
    lines: list[str] = []
    given: list[tuple[Key, Any, type[Config] | None]] = []
    for override in overrides:
        try:
            key, value = read_override(override)
            given.append((key, value, model_at(key) if len(key) > 1 else None))
        except MarkedError as error:
            lines.append(str(error))
    for key, _, owner in given:
        section = document.value(key[:-1])
        if owner is not None and isinstance(section, Mapping):
            document.replace(key[:-1], owner.under_override(section, str(key[-1])))
    for key, value, owner in given:
        try:
            if owner is not None and key[-1] in owner.other_spellings:
                document.remove((*key[:-1], *owner.other_spellings[str(key[-1])].split(".")))
            document.assign(key, value)
        except MarkedError as error:
            lines.append(str(error))
    return document, lines


def _validate(
    document: Document, model: type[Model], values: Any, root: Key, lines: list[str]
) -> Model | None:
    """The checked section, or None once what is wrong has been put before `lines`."""
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        lines[:0] = _describe(document, model, values, root, error.errors(include_url=False))
        return None
    return None if lines else config


def _describe(
    document: Document, model: type[Config], values: Any, root: Key, details: Sequence[ErrorDetails]
) -> list[str]:
    """One line per key, in the order of the file; the several messages of a union in one line."""
    messages: dict[Key, dict[str, None]] = {}
    shown: dict[Key, str] = {}
    for detail in details:
        key, known = _key(model, values, detail)
        messages.setdefault((*root, *key), {})[_message(detail, known)] = None
        shown.setdefault((*root, *key), _got(detail))
    deepest = [
        key for key in messages if not any(key == other[: len(key)] for other in messages.keys() - {key})
    ]
    places = {key: document.place(key) for key in deepest}  # the others: alternatives that were not meant
    return [
        f"{places[key]}: {dotted(key)}: {'; or '.join(messages[key])}{shown[key]}"
        for key in sorted(deepest, key=lambda key: _order(places[key]))
    ]


def _key(model: type[Config], values: Any, detail: ErrorDetails) -> tuple[Key, list[str]]:
    """The user's key of an error, without pydantic's union tags, and the keys known beside it."""
    leaves: list[type] = [model]
    key: list[str | int] = []
    known: list[str] = []
    cause = detail.get("ctx", {}).get("error")
    path = (*detail["loc"], *(cause.path if isinstance(cause, KeyedError) else ()))
    for part in path:
        names = [name for leaf in leaves if issubclass(leaf, Config) for name in leaf.model_fields]
        present = isinstance(values, Mapping) and part in values
        if isinstance(part, str) and not present and part not in names:
            continue
        key.append(part)
        if isinstance(part, str):
            known = names
            leaves = [leaf for parent in leaves for leaf in _leaves_at(parent, part)]
        entry = isinstance(part, int) and isinstance(values, Sequence) and part < len(values)
        values = values[part] if present or entry else None
    return tuple(key), known


def _message(detail: ErrorDetails, known: list[str]) -> str:
    if detail["type"] == "extra_forbidden":
        word = str(detail["loc"][-1])
        hint = did_you_mean(word, known)
        return f"unknown key{hint}" if hint or not known else f"unknown key; known: {', '.join(known)}"
    if detail["type"] == "missing":
        return "missing; it has no default"
    if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a section (`key: value` lines) is wanted"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        choices = detail.get("ctx", {}).get("expected", "").replace(" or ", ", ").replace("'", "").split(", ")
        message += did_you_mean(detail["input"], choices)
    return " ".join(message.split())


def _got(detail: ErrorDetails) -> str:
    if detail["type"] == "missing" or isinstance(detail["input"], Mapping | Config):
        return ""
    text = repr(detail["input"])
    return f"  [got {text if len(text) <= 60 else text[:57] + '...'}]"


def _order(place: str) -> tuple[int, ...]:
    numbers = [int(part) for part in place.split(":")[-2:] if part.isdecimal()]
    return (0, *numbers) if len(numbers) == 2 else (1,)


def _model_at(model: type[Config], key: Key) -> type[Config] | None:
    """The model of the mapping that holds `key`."""
    for part in key[:-1]:
        found = [leaf for leaf in _leaves_at(model, str(part)) if issubclass(leaf, Config)]
        if not found:
            return None
        model = found[0]
    return model


def _leaves_at(model: type, name: str) -> list[type]:
    if issubclass(model, Config) and name in model.model_fields:
        return list(_leaves(model.model_fields[name].annotation))
    return []


def _leaves(annotation: Any) -> Iterable[type]:
    """The classes an annotation is made of, outermost containers included."""
    arguments = get_args(annotation)
    if isinstance(annotation, type) and not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)
