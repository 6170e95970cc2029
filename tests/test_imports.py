"""Which layer may import which, read from the source; and what `import durotaxis` costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "durotaxis"

BELOW_STUDY = {"core", "records", "env", "fusion", "ppo", "agent", "pretrain"}
ALLOWED = {
    "core": set(),
    "records": set(),
    "env": {"core"},
    "fusion": {"core"},
    "ppo": {"core", "records"},
    "agent": {"core", "env.types", "fusion"},
    "agent.scripted": {"core", "env.config", "env.types", "env.substrate", "fusion"},
    "pretrain": {"core", "records", "env", "fusion", "agent"},
    "study": BELOW_STUDY,
    "analysis": {"records"},
    "integrations": {"core", "env", "fusion", "agent"},
    "cli": BELOW_STUDY | {"study", "analysis", "integrations", "console"},
    "console": {"ppo", "study"},
    "__main__": {"cli"},
    "": set(),
}


def module_name(path: Path) -> str:
    """Dotted name below `durotaxis`; the package itself is ''."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported(source: str, module: str, is_package: bool) -> set[str]:
    """Dotted names below `durotaxis` that a source imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ("durotaxis." + module).rstrip(".").split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {name.removeprefix("durotaxis.") for name in names if name.split(".")[0] == "durotaxis"}


def violations(module: str, names: set[str], is_package: bool) -> list[str]:
    layer = module.split(".")[0]
    allowed = {layer} if is_package and layer else ALLOWED.get(module, ALLOWED[layer]) | {layer}
    return [
        f"durotaxis.{module} imports {name}"
        for name in sorted(names)
        if not any(name == part or name.startswith(part + ".") for part in allowed if part)
    ]


def test_imports_follow_the_layers():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    found = []
    for path in files:
        is_package = path.name == "__init__.py"
        module = module_name(path)
        found += violations(module, imported(path.read_text("utf-8"), module, is_package), is_package)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "is_package", "source", "count"),
    [
        ("fusion.wsa", False, "from durotaxis.env.types import Colony", 1),
        ("fusion.wsa", False, "def f():\n    import durotaxis.agent.actor", 1),
        ("agent.encoder", False, "from durotaxis.env import EnvConfig", 1),
        ("agent.encoder", False, "from durotaxis.env.types import Observation", 0),
        ("agent.encoder", False, "from durotaxis.env.substrate import Substrate", 1),
        ("agent.scripted", False, "from durotaxis.env.substrate import Substrate", 0),
        ("env", True, "from durotaxis.core.config import Config", 1),
        ("env", True, "from .types import Colony", 0),
        ("env.step", False, "from ..fusion import wsa", 1),
        ("core.config", False, "from durotaxis import core, records", 1),
        ("ppo.loss", False, "import torch, numpy", 0),
        ("", True, "import durotaxis.core.config", 1),
    ],
)
def test_a_wrong_direction_is_seen(module, is_package, source, count):
    assert len(violations(module, imported(source, module, is_package), is_package)) == count


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "numpy", "pydantic", "torch_geometric", "transformers", "matplotlib", "typer", "rich"}
    code = "import sys, time; start = time.perf_counter(); import durotaxis; end = time.perf_counter(); "
    seconds, *modules = run_python(code + "print(end - start, *sys.modules)").split()
    assert not heavy & set(modules)
    assert float(seconds) < 0.5


def test_records_need_the_standard_library_only():
    modules = run_python("import sys, durotaxis.records; print(*sys.modules)").split()
    known = sys.stdlib_module_names | {"durotaxis", "_distutils_hack"}
    third_party = {name.split(".")[0] for name in modules} - known
    assert not {name for name in third_party if not name.startswith(("__", "_virtualenv", "sitecustom"))}


def test_layers_are_reached_from_the_package():
    assert run_python("import durotaxis; print(durotaxis.env.__name__)") == "durotaxis.env"
    assert run_python("import durotaxis; print(durotaxis.__version__.count('.'))") == "2"
