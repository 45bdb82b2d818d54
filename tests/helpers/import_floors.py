"""Which room of a package may import which: one table, from which the documents' tables and their picture are made.

A room is a folder or a file that lies directly in a package. A file imports from its own room and from lower floors;
imports for types alone count too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.repository import ROOT

# From the ground floor up.
FLOORS: dict[str, tuple[str, ...]] = {
    "models": (
        "architecture batch errors progress",
        "config system kv",
        "kernels",
        "attention quant",
        "checkpoints compute",
        "linear sources",
        "layers tokenizer pooling",
        "families decoder",
        "loaded_model",
        "weight_cache adapters transformers_backend",
        "loading caches",
        "export forward training",
    ),
    "engine": (
        "errors wording",
        "protocol config child_processes kv_tiers",
        "client command_io scheduling quality kv_events",
        "grammar sampling speculation adapters pooling scoring simulation",
        "runner",
        "engine draft_model faults",
        "startup",
        "process commands finetuning",
    ),
    "server": (
        "config paths errors schemas text loadtest pages",
        "metrics structured_outputs reasoning drain store data",
        "runs live tracing tools keys files pulling",
        "text_model prefixes calibration",
        "served chat",
        "context generation",
        "jobs protocols pooling decisions",
        "finetuning http openapi moderations synthesis",
        "state",
        "endpoints",
        "batches",
        "dashboard",
        "routes",
        "app",
        "commands",
        "cli",
    ),
}

# What a package may import of another one; None is all of it.
ACROSS: dict[str, dict[str, set[str] | None]] = {
    "server": {
        "engine": {
            "errors",
            "wording",
            "protocol",
            "child_processes",
            "config",
            "client",
            "command_io",
            "kv_tiers",
            "simulation",
        }
    },
    "engine": {"models": None},
    "models": {},
}

# Rooms that load neither torch nor numpy: they import the standard library, these libraries, and rooms of this table
# that need no others.
WITHOUT_TORCH: dict[str, set[str]] = {
    "engine.errors": set(),
    "engine.wording": set(),
    "engine.protocol": {"msgspec"},
    "engine.config": set(),
    "engine.child_processes": {"msgspec"},
    "engine.client": {"msgspec"},
    "engine.command_io": {"msgspec", "rich", "matplotlib", "rapidfuzz"},
    "engine.kv_tiers": set(),
    "engine.kv_events": {"msgspec", "zmq"},
    "engine.scheduling": {"msgspec"},
    "engine.grammar": {"llguidance", "msgspec"},
    "engine.speculation": {"msgspec"},
    "engine.scoring": {"msgspec"},
    "engine.simulation": {"msgspec", "rich", "matplotlib", "rapidfuzz"},  # what command_io needs
}

# What each package leaves to others.
FOREIGN: dict[str, set[str]] = {
    "server": {"torch", "transformers"},
    "engine": {"fastapi"},
    "models": {"fastapi"},
}


def floor_of(room: str) -> int:
    """`room`: "engine.client". Raises KeyError for one that the table lacks."""
    package, _, name = room.partition(".")
    floors = {each: number for number, rooms in enumerate(FLOORS[package], 1) for each in rooms.split()}
    return floors[name]


def sources(package: str, root: Path = ROOT) -> Iterator[Path]:
    """The package's files, empty ones left out."""
    for path in sorted((root / package).rglob("*.py")):
        if path.parent != root / package or path.name != "__init__.py":
            yield path


def module_name(path: Path, root: Path = ROOT) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """ "engine.client" of "engine.client.supervisor"."""
    return ".".join(module.split(".")[:2])


def imports(path: Path, root: Path = ROOT) -> set[str]:
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
                submodule = root.joinpath(*module.split("."), alias.name)
                is_module = submodule.is_dir() or submodule.with_suffix(".py").is_file()
                names.add(f"{module}.{alias.name}" if is_module else module)
    return names


def subject_of(room: str) -> str:
    """The first line of a room's docstring."""
    path = ROOT.joinpath(*room.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    doc = ast.get_docstring(ast.parse(file.read_text()))
    assert doc is not None, f"{file} says nothing of its subject"
    return doc.partition("\n\n")[0].replace("\n", " ")


def floor_table(package: str) -> list[tuple[str, ...]]:
    """The package's rooms with their subjects, the top floor first."""
    rows: list[tuple[str, ...]] = [("floor", "room", "subject")]
    for number, rooms in reversed(list(enumerate(FLOORS[package], 1))):
        for name in rooms.split():
            is_folder = (ROOT / package / name).is_dir()
            rows.append((str(number), f"`{name}/`" if is_folder else f"`{name}.py`", subject_of(f"{package}.{name}")))
    return rows


def picture() -> str:
    """The three packages above each other, their top floors first, and what each takes of the one below."""
    lines = []
    for package in reversed(FLOORS):
        lines.append(package)
        for number, rooms in reversed(list(enumerate(FLOORS[package], 1))):
            shown = [name + "/" * (ROOT / package / name).is_dir() for name in rooms.split()]
            lines.append(f"  {number:2}  {'  '.join(shown)}")
        for other, allowed in ACROSS[package].items():
            taken = "all" if allowed is None else " ".join(name for name in _in_order(other) if name in allowed)
            lines += ["   |", f"   |  imports of {other}: {taken}", "   v"]
    return "\n".join(lines)


def _in_order(package: str) -> list[str]:
    return [name for rooms in FLOORS[package] for name in rooms.split()]
