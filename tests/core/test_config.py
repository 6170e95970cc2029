"""Reading configuration files: values, places and messages."""

import math
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from durotaxis.core.config import (
    Config,
    ConfigError,
    KeyedError,
    load_config,
    load_sections,
    to_schema,
    to_yaml,
)
from durotaxis.core.errors import UserError


class Model(Config):
    model_type: str
    freeze: bool = False


class Fusion(Config):
    embedding_dim: int = Field(default=256, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    simplicial: Literal["off"] | int = 16
    groups: int = 16
    ptms: list[Model] | None = None
    range: tuple[float, float] = (0.0, 1.0)
    extra: Model | Literal["off"] = "off"

    @model_validator(mode="after")
    def _divisible(self):
        if self.embedding_dim % self.groups:
            raise KeyedError("embedding_dim", f"must be divisible by groups ({self.groups})")
        return self


class Agent(Config):
    use_wsa: bool = False
    kind: Literal["linear", "exponential"] = "linear"
    name: str | None = None
    wsa_config: Fusion = Fusion()


class Root(Config):
    seed: int = 0
    rate: float = 3e-4
    agent: Agent = Agent()
    other: Agent = Agent()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write `a.yaml` into an empty working directory and return its relative name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> Path:
        path = Path("a.yaml")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def errors(path, model=Root, overrides=()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, model, overrides)
    assert isinstance(caught.value, UserError)
    assert str(caught.value).splitlines() == list(caught.value.lines)
    return list(caught.value.lines)


def test_all_errors_at_once_in_file_order_with_their_places(write):
    path = write(
        "seed: sixteen\n"
        "agent:\n"
        "  use_was: true\n"
        "  wsa_config: {embedding_dim: 0, hieght: 24}\n"
        "  kind: exponental\n"
        "  wsa_config2: 3\n"
    )
    assert errors(path, overrides=["rate=fast", "agent.nmae=x"]) == [
        "a.yaml:1:1: seed: Input should be a valid integer, unable to parse string as an integer  [got 'sixteen']",
        "a.yaml:3:3: agent.use_was: unknown key (did you mean 'use_wsa'?)  [got True]",
        "a.yaml:4:16: agent.wsa_config.embedding_dim: Input should be greater than or equal to 1  [got 0]",
        "a.yaml:4:34: agent.wsa_config.hieght: unknown key; known: embedding_dim, temperature, simplicial, "
        "groups, ptms, range, extra  [got 24]",
        "a.yaml:5:3: agent.kind: Input should be 'linear' or 'exponential' (did you mean 'exponential'?)  "
        "[got 'exponental']",
        "a.yaml:6:3: agent.wsa_config2: unknown key (did you mean 'wsa_config'?)  [got 3]",
        "command line: rate: Input should be a valid number, unable to parse string as a number  [got 'fast']",
        "command line: agent.nmae: unknown key (did you mean 'name'?)  [got 'x']",
    ]


def test_errors_inside_lists_and_missing_keys(write):
    path = write(
        "agent:\n  wsa_config:\n    ptms:\n      - {model_type: a, freze: no}\n      - {freeze: no}\n"
    )
    assert errors(path) == [
        "a.yaml:4:25: agent.wsa_config.ptms.0.freze: unknown key (did you mean 'freeze'?)  [got 'no']",
        "a.yaml:5:9: agent.wsa_config.ptms.1.model_type: missing; it has no default",
    ]


def test_a_rule_between_keys_blames_the_key_it_names(write):
    path = write("agent:\n  wsa_config:\n    groups: 7\n    embedding_dim: 256\n")
    assert errors(path) == ["a.yaml:4:5: agent.wsa_config.embedding_dim: must be divisible by groups (7)"]
    path = write("agent:\n  wsa_config:\n    groups: 7\n")
    assert errors(path) == ["a.yaml:2:3: agent.wsa_config.embedding_dim: must be divisible by groups (7)"]


def test_messages_of_a_union_share_a_line_without_the_tags(write):
    (line,) = errors(write("agent: {wsa_config: {simplicial: 0.5}}"))
    assert line.startswith(
        "a.yaml:1:22: agent.wsa_config.simplicial: Input should be 'off'; or Input should be"
    )


def test_alternatives_that_were_not_meant_are_not_mentioned(write):
    path = write("agent: {wsa_config: {extra: {model_type: a, freze: no}}}")
    assert errors(path) == [
        "a.yaml:1:45: agent.wsa_config.extra.freze: unknown key (did you mean 'freeze'?)  [got 'no']"
    ]


def test_what_an_override_replaced_is_no_longer_blamed_on_the_file(write):
    path = write("agent:\n  wsa_config:\n    embedding_dim: 256\n    groups: 16\n")
    assert errors(path, overrides=["agent.wsa_config={embedding_dim: 0}"]) == [
        "command line: agent.wsa_config.embedding_dim: Input should be greater than or equal to 1  [got 0]"
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a.yaml: is empty; `durotaxis config show` prints a full configuration"),
        ("# nothing\n", "a.yaml: is empty; `durotaxis config show` prints a full configuration"),
        ("- 1\n", "a.yaml:1:1: the file must hold `section: ...` mappings"),
        ("word\n", "a.yaml:1:1: the file must hold `section: ...` mappings"),
        (b"a: \xff\n", "a.yaml: is not UTF-8 text (byte 3)"),
        ("seed: 1\nseed: 2\n", "a.yaml:2:1: seed: given twice, first in line 1; keep one"),
        ("agent:\n  use_wsa: true\n  use_wsa: false\n", "a.yaml:3:3: agent.use_wsa: given twice, first in line 2; keep one"),
        ("seed: [1\n", "a.yaml:2:1: not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'"),
        ("\tseed: 1", "a.yaml:1:1: not valid YAML: while scanning for the next token found character '\\t' that cannot start any token"),
        ("seed: \x07", "a.yaml:1:1: not valid YAML: a character that is not allowed"),
        ("seed: 1\n---\nseed: 2\n", "a.yaml:2:1: not valid YAML: expected a single document in the stream but found another document"),
        ("agent: &x {other: *x}\n", "a.yaml:1:8: agent.other: an alias that contains itself"),
        ("seed: !!python/object:os.system x\n", "a.yaml:1:7: seed: the tag tag:yaml.org,2002:python/object:os.system cannot be read here"),
        ("seed: !!int x\n", "a.yaml:1:7: seed: the tag tag:yaml.org,2002:int cannot be read here"),
        ("{[1]: 2}\n", "a.yaml:1:2: the file: a key must be plain text"),
        ("agent: 3\n", "a.yaml:1:1: agent: a section (`key: value` lines) is wanted  [got 3]"),
        ("seed: true\n", "a.yaml:1:1: seed: a number is wanted, not true or false  [got True]"),
        ("rate: .nan\n", "a.yaml:1:1: rate: Input should be a finite number  [got nan]"),
        ("rate: .inf\n", "a.yaml:1:1: rate: Input should be a finite number  [got inf]"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_line(write, text, expected):
    assert errors(write(text)) == [expected]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    assert errors(tmp_path) == [f"{tmp_path}: is a directory; name a YAML file"]
    assert errors(tmp_path / "none.yaml") == [f"{tmp_path / 'none.yaml'}: no such file"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("nonsense", "command line: 'nonsense' is not of the form section.key=value"),
        ("=3", "command line: '=3' is not of the form section.key=value"),
        ("agent..name=3", "command line: 'agent..name=3' is not of the form section.key=value"),
        ("seed=[1", "command line: seed: the value is not valid YAML: while parsing a flow sequence expected ',' or ']', but got '<stream end>'  [got '[1']"),
        ("seed.x=1", "command line: seed.x: seed is a single value, not a section"),
        ("agent.wsa_config.ptms.2.freeze=true", "command line: agent.wsa_config.ptms.2: no such entry; the list has 2, counted from 0"),
        ("agent.wsa_config.ptms.last=1", "command line: agent.wsa_config.ptms.last: no such entry; the list has 2, counted from 0"),
        ("other.wsa_config.ptms.0.freeze=true", "command line: other.wsa_config.ptms.0: the file gives no list here; give the whole list, as in other.wsa_config.ptms='[...]'"),
    ],
)  # fmt: skip
def test_a_broken_override_is_one_line(write, override, expected):
    path = write("seed: 1\nagent: {wsa_config: {ptms: [{model_type: a}, {model_type: b}]}}\n")
    assert errors(path, overrides=[override]) == [expected]


def test_overrides_win_and_reach_into_lists(write):
    path = write("seed: 1\nagent:\n  wsa_config: {ptms: [{model_type: a}, {model_type: b}]}\n")
    config = load_config(
        path,
        Root,
        ["seed=-5", "rate=1e-3", "agent.wsa_config.ptms.1.freeze=true", "other.wsa_config.range=[2, 3]", "other.name=hf:x/y"],
    )  # fmt: skip
    assert (config.seed, config.rate, config.other.name) == (-5, 1e-3, "hf:x/y")
    assert config.agent.wsa_config.ptms == [Model(model_type="a"), Model(model_type="b", freeze=True)]
    assert config.other.wsa_config.range == (2.0, 3.0)
    assert load_config(path, Root, ["seed=2", "seed=3"]).seed == 3


def test_no_file_means_defaults():
    assert load_config(None, Root) == Root()
    assert load_config(None, Root, ["seed=7"]).seed == 7
    assert errors(None, overrides=["sed=7"]) == [
        "command line: sed: unknown key (did you mean 'seed'?)  [got 7]"
    ]


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("rate: 3e-4", "rate", 3e-4),
        ("rate: 1E5", "rate", 1e5),
        ("rate: .5", "rate", 0.5),
        ("rate: 1", "rate", 1.0),
        ("seed: 1e3", "seed", 1000),
        ("seed: 010", "seed", 10),
        ("seed: 0x10", "seed", 16),
        ("seed: 0o10", "seed", 8),
        ("seed: 1_000", "seed", 1000),
        ("seed: -3", "seed", -3),
    ],
)
def test_numbers_read_as_people_write_them(write, text, field, value):
    result = getattr(load_config(write(text), Root), field)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "word", ["no", "on", "12:30", "1.2.3", "2026-01-02", "<<", "=", "y", "0b1", "1e", "hf:a/b"]
)
def test_words_stay_words(write, word):
    assert load_config(write(f"agent: {{name: {word!r}}}"), Root).agent.name == word
    assert load_config(write(f"agent:\n  name: {word}\n"), Root).agent.name == word


def test_off_is_a_word_and_switches_both_text_and_boolean_fields(write):
    config = load_config(write("agent: {use_wsa: on, wsa_config: {simplicial: off}}"), Root)
    assert config.agent.use_wsa is True
    assert config.agent.wsa_config.simplicial == "off"


def test_aliases_and_empty_sections(write):
    config = load_config(write("agent: &a {kind: exponential}\nother: *a\n"), Root)
    assert config.agent == config.other == Agent(kind="exponential")
    assert load_config(write("agent:\n  # kind: linear\nseed: 3\n"), Root) == Root(seed=3)


def test_byte_order_mark_is_no_error(write):
    assert load_config(write(b"\xef\xbb\xbfseed: 3\n"), Root).seed == 3
    assert errors(write(b"\xef\xbb\xbfsed: 3\n"))[0].startswith("a.yaml:1:1: sed: unknown key")


def test_sections_are_read_alone(write):
    path = write("agent: {kind: exponential}\nunknown: {x: 1}\nother: 7\n")
    assert load_sections(path, {"agent": Agent}) == {"agent": Agent(kind="exponential")}
    assert load_sections(path, {"third": Fusion}, ["third.groups=8"]) == {"third": Fusion(groups=8)}
    with pytest.raises(ConfigError) as caught:
        load_sections(path, {"agent": Agent, "other": Agent}, ["agent.kind=x", "seed=3"])
    assert caught.value.lines == (
        "a.yaml:3:1: other: a section (`key: value` lines) is wanted  [got 7]",
        "command line: agent.kind: Input should be 'linear' or 'exponential'  [got 'x']",
        "command line: seed: must start with one of: agent, other",
    )


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Root().seed = 3


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=8) | st.sampled_from(
    [
        "no",
        "off",
        "1e3",
        "0o7",
        "12:30",
        "~",
        "null",
        "true",
        "3",
        "1.",
        ".5",
        "<<",
        "=",
        "",
        " x ",
        "- a",
        "#",
    ]
)
finite = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(), finite, st.none() | names, st.tuples(finite, finite), st.none() | st.lists(names, max_size=2)
)  # fmt: skip
def test_the_resolved_text_loads_back_equal(tmp_path_factory, seed, rate, name, range_, ptms):
    fusion = Fusion(range=range_, ptms=ptms and [Model(model_type=word) for word in ptms])
    config = Root(seed=seed, rate=rate, agent=Agent(name=name, wsa_config=fusion))
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(to_yaml(config), "utf-8")
    assert load_config(path, Root) == config
    other_reader = yaml.safe_load(path.read_text("utf-8"))  # YAML 1.1 sees the same text
    assert other_reader["agent"]["name"] == name
    assert math.isclose(other_reader["rate"], rate)


def test_schema_names_every_key():
    schema = to_schema(Root)
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["properties"]) == {"seed", "rate", "agent", "other"}
    assert schema["$defs"]["Fusion"]["additionalProperties"] is False


class Preset(Config):
    preset: str = "plain"
    width: int = 1
    height: int = 1
    depth: int = 1

    @classmethod
    def under_override(cls, section, key):
        return {k: v for k, v in section.items() if k == "height"} if key == "preset" else section


class Presets(Config):
    one: Preset = Preset()
    other: Preset = Preset()


def test_a_section_says_what_an_override_leaves_of_it(write):
    path = write("one: {preset: old, width: 2, height: 3, depth: 4}\nother: {preset: old, width: 2}\n")
    found = load_config(path, Presets, ["one.width=5", "one.preset=new"])  # in whatever order
    assert found.one == Preset(preset="new", width=5, height=3)
    assert found.other == Preset(preset="old", width=2)
    unchanged = Preset(preset="old", width=5, height=3, depth=4)
    assert load_config(path, Presets, ["one.width=5"]).one == unchanged
    assert load_config(write("one:\n"), Presets, ["one.preset=new"]).one == Preset(preset="new")
