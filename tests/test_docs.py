"""The documentation pages say what the code says: tables, defaults, links and examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from durotaxis.agent import ActorCriticConfig
from durotaxis.core.config import load_config
from durotaxis.env import (
    EDGE_FEATURES,
    GRAPH_FEATURES,
    NODE_FEATURES,
    PARAMETERS,
    SCENARIOS,
    EnvConfig,
    Reason,
)
from durotaxis.env.config import RewardConfig, SpawnBounds, SubstrateConfig
from durotaxis.env.reward import TERMS
from durotaxis.env.stages import RUN_WIDE
from durotaxis.env.substrate.config import SECTIONS
from durotaxis.fusion import RULES, PTMConfig, WSAConfig
from durotaxis.ppo import alerts
from durotaxis.ppo.config import PPOConfig
from durotaxis.ppo.curriculum import StageConfig
from durotaxis.records import schema_table
from durotaxis.study.config import RootConfig, shipped_studies
from durotaxis.study.plan import load_study

DOCS = Path(__file__).parents[1] / "docs"
ENVIRONMENT = (DOCS / "environment.md").read_text("utf-8")
FUSION = (DOCS / "fusion.md").read_text("utf-8")
TRAINING = (DOCS / "training.md").read_text("utf-8")
ALGORITHM = (DOCS / "algorithm.md").read_text("utf-8")


def section(page: str, title: str) -> str:
    """Text from a second-level heading to the next."""
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table_rows(text: str) -> list[list[str]]:
    """Cells of all Markdown table rows, without headings and rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {i for i, line in enumerate(lines) if set(line) <= set("|- ")}
    kept = [line for i, line in enumerate(lines) if i not in rules and i + 1 not in rules]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in kept]


def first_words(text: str) -> list[str]:
    """What stands in backticks in the first column."""
    return [row[0].strip("` ") for row in table_rows(text) if row[0].startswith("`")]


def test_observation_tables_list_every_feature_in_order():
    rows = [row for row in table_rows(section(ENVIRONMENT, "Observation")) if row[0].isdigit()]
    assert [row[1].strip("`") for row in rows] == [*NODE_FEATURES, *EDGE_FEATURES, *GRAPH_FEATURES]
    numbers = [int(row[0]) for row in rows]
    assert numbers == [*range(1, 14), *range(1, 4), *range(1, 17)]


def test_action_table_has_the_bounds():
    rows = {row[0].strip("`"): row[1] for row in table_rows(section(ENVIRONMENT, "Action"))}
    bounds = SpawnBounds()
    for name in PARAMETERS[:3]:
        low, high = getattr(bounds, name)
        assert rows[name] == f"{low:g} to {high:g}"
    assert rows["angle"] == "-π to π"


def test_reward_table_names_every_term_and_every_default():
    rows = table_rows(section(ENVIRONMENT, "Reward"))
    assert [row[0].strip("`") for row in rows] == list(TERMS)
    stated = dict(re.findall(r"`(\w+)` (\([^)]*\)|-?[\d.]+)", " ".join(row[2] for row in rows)))
    assert stated == {name: str(field.default) for name, field in RewardConfig.model_fields.items()}


def test_ends_stand_in_their_order():
    names = [reason.name.lower() for reason in Reason if reason != Reason.RUNNING]
    assert first_words(section(ENVIRONMENT, "Ends")) == names


def test_substrates_and_scenarios_are_complete():
    kinds = SubstrateConfig.model_fields["kind"].annotation.__args__
    assert set(first_words(section(ENVIRONMENT, "Substrates"))) == set(kinds)
    assert set(SECTIONS) < set(kinds)
    rows = {row[0].strip("`"): row for row in table_rows(section(ENVIRONMENT, "Scenarios"))}
    assert list(rows) == list(SCENARIOS)
    for name, row in rows.items():
        config = EnvConfig(scenario=name)
        width, height = config.substrate.size
        assert row[1].startswith(config.substrate.kind)
        assert row[2] == f"{width:g} x {height:g}"
        counts = (config.critical_nodes, config.max_nodes, config.max_steps)
        assert [int(cell.rstrip(" |")) for cell in row[3:]] == list(counts)


def as_printed(value) -> str:
    """A default as the table of substrates writes it."""
    if isinstance(value, tuple):
        return f"({', '.join(as_printed(part) for part in value)})"
    return value if isinstance(value, str) else f"{value:g}"


@pytest.mark.parametrize("kind", SECTIONS)
def test_the_table_of_substrates_states_every_key_and_default(kind):
    rows = {row[0].strip("`"): row[2] for row in table_rows(section(ENVIRONMENT, "Substrates"))}
    name, _, keys = rows[kind].partition(": ")
    assert name == f"`{kind}`"
    stated = dict(re.findall(r"`(\w+)`(?: (\([^)]*\)|[\d.]+))?", keys))
    fields = SubstrateConfig.model_fields[kind].default
    wanted = {key: getattr(fields, key) for key in type(fields).model_fields}
    assert stated == {key: "" if value is None else as_printed(value) for key, value in wanted.items()}


def test_environment_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", ENVIRONMENT, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "environment.md", "exec"), {})


def test_the_table_of_what_no_stage_may_set_is_complete():
    rows = table_rows(section(ENVIRONMENT, "Stages"))
    assert {row[0].strip("`"): row[1] for row in rows} == RUN_WIDE


def test_algorithm_page_states_every_default():
    rows = {row[0].strip("`"): row[1] for row in table_rows(section(ALGORITHM, "Defaults"))}
    config = PPOConfig()
    assert rows == {name: str(getattr(config, name)) for name in PPOConfig.model_fields}


def test_training_page_states_every_key_of_a_stage():
    rows = {row[0].strip("`"): row[1] for row in table_rows(section(TRAINING, "A curriculum"))}
    defaults = {name: str(field.default) for name, field in StageConfig.model_fields.items()}
    assert rows == defaults | {"name": "required", "env": "{}"}


def test_training_page_lists_every_warning():
    source = (Path(alerts.__file__)).read_text("utf-8")
    names = set(re.findall(r'Alert\(\s*"(\w+)"', source))
    assert set(first_words(section(TRAINING, "Warnings"))) == names


def test_training_page_lists_every_number_that_takes_a_schedule():
    def scheduled(model):
        return {name for name, field in model.model_fields.items() if "chedule" in str(field.annotation)}

    listed = (
        section(TRAINING, "Moments and schedules").split("take a number or a schedule: ")[1].split("\n")[0]
    )
    assert {word.removeprefix("ppo.") for word in re.findall(r"`([\w.]+)`", listed)} - {
        "actor_critic.wsa_config"
    } == scheduled(PPOConfig) | scheduled(WSAConfig)


@pytest.mark.parametrize("number", range(2))
def test_training_page_configurations_hold(tmp_path, number):
    blocks = re.findall(r"```yaml\n(.*?)```", TRAINING, re.S)
    assert len(blocks) == 2
    (tmp_path / "block.yaml").write_text(blocks[number])
    load_config(tmp_path / "block.yaml", RootConfig)


def test_fusion_page_and_guide_state_every_key_and_default():
    rows = {row[0].strip("`"): row[1] for row in table_rows(section(FUSION, "Keys"))}
    defaults = {name: str(field.default) for name, field in WSAConfig.model_fields.items()}
    assert rows == defaults | {"ptms": "the guide's three"}
    guide = section((DOCS / "wsa-guide.md").read_text("utf-8"), "Configuration")
    assert [key for key in first_words(guide) if key in defaults] == list(defaults)
    named = re.search(r"each with (.*?) \|", guide)
    assert {"enters_at", "ramp_steps"} < set(re.findall(r"`(\w+)`", named[1])) <= set(PTMConfig.model_fields)


def test_fusion_page_lists_every_rule():
    assert first_words(section(FUSION, "Rules")) == list(RULES)


def test_fusion_page_runs():
    names: dict = {}
    for language, block in re.findall(r"```(python|yaml)\n(.*?)```", FUSION, re.S):
        if language == "python":
            exec(compile(block, "fusion.md", "exec"), names)
        else:
            ActorCriticConfig.model_validate(yaml.safe_load(block)["actor_critic"])


def test_choices_are_numbered_without_gaps():
    numbers = re.findall(r"^(\d+)\. ", section(ALGORITHM, "Implementation choices"), re.M)
    assert [int(n) for n in numbers] == list(range(1, len(numbers) + 1))


def test_record_tables_are_the_schema():
    between = re.search(r"<!-- schema:[^\n]*-->\n\n?(.*?)<!-- end of schema -->", ALGORITHM, re.S)
    assert between
    assert between[1].strip() == schema_table().strip(), "paste durotaxis.records.schema_table() again"


PAGES = [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name}: {target}"


def test_the_study_page_shows_a_file_that_works_and_lists_the_ready_ones(tmp_path):
    page = (DOCS / "studies.md").read_text("utf-8")
    (tmp_path / "sharp.yaml").write_text(page.split("```yaml\n")[1].split("```")[0], "utf-8")
    study = load_study(tmp_path / "sharp.yaml")
    assert len(study.runs) == 2 * 3 * 10
    assert first_words(section(page, "Ready studies")) != []
    assert sorted(first_words(section(page, "Ready studies"))) == sorted(shipped_studies())
