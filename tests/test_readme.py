"""Every command and every block of the README runs as printed, only shorter.

A block is left alone where the line before it says why: `<!-- not run: needs ImageNet weights -->`.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from durotaxis.core.config import load_config
from durotaxis.study.config import RootConfig

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?P<before>[^\n]*)\n```(?P<language>\w+)\n(?P<text>.*?)\n```", re.DOTALL)
SHORTER = {
    "train": [
        "training.total_steps=64",
        "training.evaluate_every=0",
        "ppo.num_colonies=8",
        "ppo.rollout_steps=8",
    ],
    "evaluate": ["--seeds", "2"],
    "score": ["--seeds", "4", "--out", "scores.json"],
}
STAGED = ["training.total_steps=192"]  # three rollouts, one for each stage
SHELL_ONLY = ("make", "git", "cd", "pip")


def blocks(language: str) -> list[str]:
    """Texts of the README's blocks in one language that are to be run."""
    text = (ROOT / "README.md").read_text("utf-8")
    found = [m for m in BLOCK.finditer(text) if m["language"] == language]
    return [m["text"] for m in found if not m["before"].strip().startswith("<!-- not run:")]


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block that this test can run, shortened."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [shorten(w) for w in words if w and w[0] not in SHELL_ONLY]


def shorten(words: list[str]) -> list[str]:
    """One command with this Python, fewer steps and fewer episodes."""
    if words[0] == "durotaxis":
        words = [sys.executable, "-m", *words]
    elif words[0] in ("python", "python3"):
        words = [sys.executable, *words[1:]]
    else:
        raise AssertionError(f"README: this test cannot run {shlex.join(words)}")
    verb = next((word for word in words[1:] if word.removesuffix(".py") in SHORTER), None)
    if verb is None:
        return words
    staged = STAGED if any("curriculum.yaml" in word for word in words) else []
    return [*words, *SHORTER[verb.removesuffix(".py")], *staged]


def test_shortening():
    assert commands("make demo\n\ndurotaxis doctor  # look\n") == [
        [sys.executable, "-m", "durotaxis", "doctor"]
    ]
    assert commands("python train.py \\\n  --config a.yaml")[0][1:5] == ["train.py", "--config", "a.yaml", *SHORTER["train"][:1]]  # fmt: skip
    assert commands("durotaxis scenario score quick")[0][-2:] == ["--out", "scores.json"]
    with pytest.raises(AssertionError, match="cannot run curl"):
        commands("curl x")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A directory that looks like the root of the repository; what commands write stays in it."""
    place = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "config.yaml", "train.py", "pretrained_fusion.py", "examples"):
        (place / name).symlink_to(ROOT / name)
    return place


def run(words: list[str], place: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(place)}
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_commands_run(checkout):
    found = [words for text in blocks("bash") for words in commands(text)]
    assert found, "README.md has no ```bash block with a durotaxis or python command"
    for words in found:
        run(words, checkout)


def test_the_python_blocks_run(checkout):
    for text in blocks("python"):
        run([sys.executable, "-c", text], checkout)


def test_the_yaml_blocks_are_valid(tmp_path):
    for text in blocks("yaml"):
        path = tmp_path / "block.yaml"
        path.write_text(text, "utf-8")
        load_config(path, RootConfig)
