"""Who may import whom: the package table of docs/architecture.md, read from the syntax trees."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STDLIB = sys.stdlib_module_names
WIRE = {"engine.protocol", "engine.errors"}
CLIENT = {
    "engine.client.interface",
    "engine.client.child_environment",
    "engine.config",
    "engine.client.lifetime",
    "engine.client.framing",
    "engine.client.log_format",
    "engine.client.output_stream",
    "engine.client.process_client",
}
CORE = {
    "engine.scheduling.sequence",
    "engine.scheduling.plan",
    "engine.scheduling.queue",
    "engine.scheduling.scheduler",
    "engine.scheduling.config",
    "engine.scheduling.step_budget",
    "engine.scheduling.step_tally",
    "engine.scheduling.outputs",
}
# What `headrace bench` and `headrace quantize` read before they start torch.
COMMAND_OPTIONS = {
    "engine.jobs.bench_config",
    "engine.jobs.lengths",
    "engine.jobs.quantize_config",
    "engine.jobs.output_folder",
}
SERVER_MAY = (
    WIRE
    | COMMAND_OPTIONS
    | {"engine.jobs.plotting", "engine.jobs.progress_bars", "engine.jobs.results"}
    | {"engine.client.interface", "engine.client.child_environment", "engine.config", "engine.client.lifetime"}
    | {"engine.client.log_format", "engine.client.process_client"}
)


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Dotted names of all imported modules, lazy ones and those for types too.

    `from a import b` counts as a.b where b is a module of ours, and as a elsewhere.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            module = node.module or ""
            for alias in node.names:
                submodule = ROOT.joinpath(*module.split("."), alias.name)
                is_module = submodule.is_dir() or submodule.with_suffix(".py").is_file()
                names.add(f"{module}.{alias.name}" if is_module else module)
    return names


def top(name: str) -> str:
    return name.partition(".")[0]


def violations(path: Path) -> set[str]:
    """The imports of a file that its place in the tree forbids."""
    module, names = module_name(path), imports(path)
    if top(module) == "server":
        return {
            name
            for name in names
            if top(name) in ("torch", "transformers", "models") or (top(name) == "engine" and name not in SERVER_MAY)
        }
    if top(module) == "models":
        return {name for name in names if top(name) in ("engine", "server")}
    if module in WIRE:
        return {name for name in names if top(name) not in STDLIB | {"msgspec"} and name not in WIRE}
    if module in CLIENT | COMMAND_OPTIONS:
        return {name for name in names if top(name) not in STDLIB | {"msgspec"} and name not in WIRE | CLIENT}
    if module in CORE or module.startswith("engine.scheduling.kv"):
        return {
            name
            for name in names
            if top(name) not in STDLIB
            and name not in WIRE | CORE | {"engine.config"}
            and not name.startswith("engine.scheduling.kv")
        }
    return {name for name in names if top(name) in ("server", "fastapi")}


@pytest.mark.parametrize("package", ["server", "engine", "models"])
def test_no_file_imports_what_its_package_must_not(package: str) -> None:
    found = {str(path.relative_to(ROOT)): names for path in sources(package) if (names := violations(path))}
    assert found == {}


@pytest.mark.parametrize(
    ("module", "line", "forbidden"),
    [
        ("server/app.py", "from engine.scheduling.scheduler import Scheduler", "engine.scheduling.scheduler"),
        ("server/app.py", "def f():\n    import torch.nn", "torch.nn"),
        ("server/app.py", "from engine import local", "engine.local"),
        ("engine/protocol.py", "import torch", "torch"),
        ("engine/client/framing.py", "from engine.scheduling.plan import StepPlan", "engine.scheduling.plan"),
        ("engine/scheduling/scheduler.py", "import numpy as np", "numpy"),
        ("engine/scheduling/kv/manager.py", "from models.batch import ForwardBatch", "models.batch"),
        ("engine/engine.py", "import fastapi", "fastapi"),
        ("models/decoder.py", "from engine.config import DType", "engine.config"),
    ],
)
def test_the_rules_catch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, line: str, forbidden: str
) -> None:
    for name in ("engine/local.py", module):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / module).write_text(line)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert violations(tmp_path / module) == {forbidden}


def loaded_after_importing(module: str) -> set[str]:
    """Top-level names in sys.modules after a fresh interpreter imported `module`."""
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", ["server.app", "server.cli"])
def test_the_api_process_never_loads_torch(module: str) -> None:
    loaded = loaded_after_importing(module)
    assert "server" in loaded
    assert not loaded & {"torch", "transformers", "models"}


def test_the_scheduler_loads_neither_torch_nor_numpy() -> None:
    loaded = loaded_after_importing("engine.scheduling.scheduler")
    assert "engine" in loaded
    assert not loaded & {"torch", "numpy", "models", "server"}
