"""Who may import whom: the floors of tests/helpers/import_floors.py, read from the syntax trees."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.import_floors import (
    ACROSS,
    FLOORS,
    FOREIGN,
    WITHOUT_TORCH,
    floor_of,
    imports,
    module_name,
    room_of,
    sources,
)
from tests.helpers.repository import ROOT

_MAX_FILES = 8  # that lie directly in a package


def violations(path: Path, root: Path = ROOT) -> set[str]:
    """The imports of a file that its place in the tree forbids."""
    module = module_name(path, root)
    return {name for name in imports(path, root) if not _is_allowed(room_of(module), name)}


def _is_allowed(room: str, name: str) -> bool:
    package, top, other = room.partition(".")[0], name.partition(".")[0], room_of(name)
    if top not in FLOORS:
        libraries = WITHOUT_TORCH.get(room)
        is_known = libraries is None or top in libraries or top in sys.stdlib_module_names
        return is_known and top not in FOREIGN[package]
    if other == room:
        return True
    if room in WITHOUT_TORCH and not (other in WITHOUT_TORCH and WITHOUT_TORCH[other] <= WITHOUT_TORCH[room]):
        return False
    if top == package:
        return floor_of(other) < floor_of(room)
    allowed = ACROSS[package].get(top, set())
    return allowed is None or other.partition(".")[2] in allowed


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_has_a_floor(package: str) -> None:
    rooms = {room_of(module_name(path)).partition(".")[2] for path in sources(package)}
    assert rooms == {name for floor in FLOORS[package] for name in floor.split()}


@pytest.mark.parametrize("package", FLOORS)
def test_no_file_imports_what_its_floor_must_not(package: str) -> None:
    found = {str(path.relative_to(ROOT)): names for path in sources(package) if (names := violations(path))}
    assert found == {}


@pytest.mark.parametrize("package", FLOORS)
def test_few_files_lie_directly_in_a_package(package: str) -> None:
    files = [path.name for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= _MAX_FILES


def test_no_files_import_each_other_in_a_circle() -> None:
    files = {module_name(path): imports(path) for package in FLOORS for path in sources(package)}
    while free := [name for name, wanted in files.items() if not wanted & files.keys() - {name}]:
        for name in free:
            del files[name]
    assert set(files) == set()


@pytest.mark.parametrize(
    ("module", "line", "forbidden"),
    [
        ("server/app.py", "from engine.scheduling.scheduler import Scheduler", "engine.scheduling.scheduler"),
        ("server/app.py", "def f():\n    import torch.nn", "torch.nn"),
        ("server/app.py", "from engine import engine", "engine.engine"),
        ("server/app.py", "import models.architecture.layer", "models.architecture.layer"),
        ("server/text/tokenizer.py", "from server.http.sse import EventStream", "server.http.sse"),
        ("engine/protocol/messages.py", "import torch", "torch"),
        ("engine/client/supervisor.py", "from engine.scheduling.plan import StepPlan", "engine.scheduling.plan"),
        ("engine/scheduling/scheduler.py", "import numpy as np", "numpy"),
        ("engine/scheduling/sequence.py", "import llguidance", "llguidance"),
        ("engine/speculation/candidates.py", "import engine.grammar.compiler", "engine.grammar.compiler"),
        ("engine/scheduling/kv/manager.py", "from models.batch import ForwardBatch", "models.batch"),
        ("engine/speculation/audit.py", "from engine.sampling.draw import draw", "engine.sampling.draw"),
        ("engine/engine.py", "import fastapi", "fastapi"),
        ("engine/engine.py", "from server.config.server import ServerConfig", "server.config.server"),
        ("models/decoder.py", "from engine.config import DType", "engine.config"),
        ("models/layers/moe.py", "from models.decoder import Decoder", "models.decoder"),
    ],
)
def test_the_rules_catch(tmp_path: Path, module: str, line: str, forbidden: str) -> None:
    for name in ("engine/engine.py", module):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / module).write_text(line)
    assert violations(tmp_path / module, tmp_path) == {forbidden}


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


@pytest.mark.parametrize("module", ["engine.scheduling.scheduler", "engine.speculation.speculator"])
def test_deciding_loads_no_library_of_tensors_or_grammars(module: str) -> None:
    loaded = loaded_after_importing(module)
    assert "engine" in loaded
    assert not loaded & {"torch", "numpy", "llguidance", "models", "server"}
