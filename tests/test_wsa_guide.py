"""The guide page keeps its word: its blocks run."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from durotaxis.cli import app, run
from durotaxis.core.config import load_config
from durotaxis.study.config import RootConfig

pytestmark = pytest.mark.unchecked

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "wsa-guide.md"
BLOCK = re.compile(
    r"^(?P<before>[^\n]*)\n(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)\n(?P=indent)```$", re.M | re.S
)
SHORTER = {
    "train": [
        "training.total_steps=64",
        "ppo.num_colonies=8",
        "ppo.rollout_steps=8",
        "ppo.num_epochs=1",
        "env.max_steps=6",
        "monitor.tensorboard=false",
    ],
    "evaluate": ["--seeds", "2", "env.max_steps=6"],
    "render": ["--max-frames", "3"],
    "analyse": ["--seeds", "3"],
}
SHORTER["study"] = [
    *("seeds=[0]", "overrides.training.total_steps=64"),
    *("overrides.ppo.num_colonies=8", "overrides.ppo.rollout_steps=8"),
]
STAGED = ["training.total_steps=192"]  # three rollouts, one for each stage
SHORTER["distill"] = [
    *SHORTER["train"],
    *("--steps", "64", "--seeds", "2"),
    *("distill.num_colonies=8", "distill.rollout_steps=8", "distill.num_epochs=1"),
]


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    mark: str  # "" or "not run"
    line: int

    def __str__(self) -> str:
        return f"{self.language}-line-{self.line}"


def read_blocks(page: str) -> list[Block]:
    """Fenced blocks with a language, each with the mark in the comment above it."""
    found = []
    for match in BLOCK.finditer(page):
        before = match["before"].strip()
        mark = "not run" if before.startswith("<!-- not run") else ""
        line = page.count("\n", 0, match.start("text")) + 1
        found.append(Block(match["language"], textwrap.dedent(match["text"]), mark, line))
    return found


def arguments(line: str) -> list[str]:
    """One shell line as arguments of the command line, shortened."""
    words = shlex.split(line)
    if words[0] == "python":
        assert words[1] == "train.py", line
        words = ["durotaxis", "train", *words[2:]]
    assert words[0] == "durotaxis", line
    staged = STAGED if any("curriculum.yaml" in word for word in words) else []
    return [*words[1:], *([] if "--resume" in words else SHORTER.get(words[1], [])), *staged]


BLOCKS = read_blocks(GUIDE.read_text("utf-8"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory that looks like the root of the repository; what blocks write stays in it."""
    for name in ("configs", "config.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))  # for pretrained_fusion


def test_blocks_are_read_with_their_marks():
    page = (
        "a\n```python\nx = 1\n```\n<!-- not run -->\n```bash\nb\n```\n1. c\n\n   ```yaml\n   k: 1\n   ```\n"
    )
    assert read_blocks(page) == [
        Block("python", "x = 1", "", 3),
        Block("bash", "b", "not run", 7),
        Block("yaml", "k: 1", "", 12),
    ]
    assert arguments("durotaxis evaluate runs/a")[:3] == ["evaluate", "runs/a", "--seeds"]
    assert arguments("python train.py --config c")[:3] == ["train", "--config", "c"]


def test_no_block_is_overlooked():
    text = GUIDE.read_text("utf-8")
    assert len(re.findall(r"^ *```\w+$", text, re.M)) == len(BLOCKS)
    assert {block.language for block in BLOCKS} == {"python", "bash", "yaml"}
    assert sum(block.mark == "" for block in BLOCKS) > len(BLOCKS) / 2


def test_blocks_run_in_the_order_of_the_page(here, capsys, monkeypatch):
    monkeypatch.setattr("durotaxis.pretrain.distill.HELD_OUT_STEPS", 8)
    monkeypatch.setattr("durotaxis.study.distill.HELD_OUT_COLONIES", 4)
    monkeypatch.setattr("durotaxis.study.cost.GROWTH_STEPS", 4)
    names: dict = {}  # shared: later blocks use the names, and the runs, of earlier ones
    for block in (block for block in BLOCKS if block.mark == ""):
        place = f"{GUIDE.name}:{block.line}"
        if block.language == "yaml":
            Path("block.yaml").write_text(block.text)
            load_config("block.yaml", RootConfig)
        elif block.language == "bash":
            for line in block.text.splitlines():
                assert run(arguments(line)) == 0, f"{place}: {line}: {capsys.readouterr().err}"
        else:
            exec(compile("\n" * (block.line - 1) + block.text, str(GUIDE), "exec"), names)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_verbs_named_in_prose_exist(page):
    verbs = set(typer.main.get_command(app).commands)
    text = BLOCK.sub("", page.read_text("utf-8"))
    for line in text.splitlines():
        for verb in re.findall(r"`durotaxis (\w+)", line):
            assert verb in verbs, f"{page.name}: {line}"
