"""`headrace models`: what it shows, and what it asks, refuses and says when it removes."""

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console

from engine.command_io.models_config import ModelsJob
from engine.commands.models import listing
from engine.commands.models.removal import remove_named
from engine.errors import StartupError
from models.caches.entry import CacheEntry, EntryKind
from models.system.files import exclusive_lock

NAME = "owner/repo-with-a-long-name-Instruct-GGUF:repo-with-a-long-name-Instruct-Q4_K_M.gguf"


@pytest.fixture
def entries(tmp_path: Path) -> list[CacheEntry]:
    def entry(name: str, kind: EntryKind, size: int, derived: tuple[CacheEntry, ...] = ()) -> CacheEntry:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.bin"
        path.write_bytes(bytes(size))
        return CacheEntry(name, kind, tmp_path, (path,), (path,), size, time.time() - 7200, derived=derived)

    packed = entry("m", EntryKind.PACKED_WEIGHTS, 500)
    return [
        entry(NAME, EntryKind.HUB, 1000, (packed,)),
        entry("owner/repo:other.gguf", EntryKind.HUB, 3000),
        entry("pypi:a+b+c", EntryKind.WHEELS, 2000),
        entry("kernels", EntryKind.KERNELS, 10),
    ]


def test_lines_are_for_programs(entries: list[CacheEntry], capsys: pytest.CaptureFixture[str]) -> None:
    listing.show(entries, as_json=False)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(name, size, kind) for name, size, _, kind in lines] == [
        (NAME, "1500", "hub"),
        ("owner/repo:other.gguf", "3000", "hub"),
        ("pypi:a+b+c", "2000", "wheels"),
        ("kernels", "10", "kernels"),
    ]
    assert all(moment.endswith("Z") for _, _, moment, _ in lines)


def test_json_has_all_fields(entries: list[CacheEntry], capsys: pytest.CaptureFixture[str]) -> None:
    listing.show(entries, as_json=True)
    first = json.loads(capsys.readouterr().out)[0]
    assert first | {"last_used": ""} == {
        "name": NAME,
        "kind": "hub",
        "is_complete": True,
        "bytes": 1000,
        "derived_bytes": 500,
        "last_used": "",
        "path": str(entries[0].paths[0]),
    }


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_terminal_of_any_width_has_whole_names(entries: list[CacheEntry], width: int) -> None:
    screen = io.StringIO()
    listing._show_table(Console(file=screen, width=width, force_terminal=True, color_system=None), entries)
    lines = screen.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    # A long name is folded, and read down its column.
    assert "".join(line.split("  ")[0].strip() for line in lines).find("Q4_K_M.gguf") >= 0
    assert "2 hours ago" in screen.getvalue()
    assert "pypi:a+2" in screen.getvalue()


def test_without_models_the_demo_is_offered() -> None:
    screen = io.StringIO()
    listing._show_table(Console(file=screen, width=80), [])
    assert "headrace pull" in screen.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "just now"), (60, "1 minute ago"), (7199, "1 hour ago"), (7200, "2 hours ago"), (200_000, "2 days ago")],
)
def test_times(seconds: float, words: str) -> None:
    assert listing.ago(seconds) == words


def test_what_is_removed_is_told(entries: list[CacheEntry], capsys: pytest.CaptureFixture[str]) -> None:
    assert remove_named(ModelsJob(remove=(NAME, "pypi:A+2"), asks=False), entries) == 0
    told = capsys.readouterr().out
    assert f"{NAME}: 1.0 kB, and 500 bytes of packed weights\n" in told
    assert told.endswith("freed 3.5 kB\n")
    assert [entry.paths[0].exists() for entry in entries] == [False, True, False, True]


def test_a_repository_stands_for_all_its_models(entries: list[CacheEntry]) -> None:
    remove_named(ModelsJob(remove=("owner/repo",), asks=False), entries)
    assert [entry.paths[0].exists() for entry in entries] == [True, False, True, True]


@pytest.mark.parametrize("name", ["demo", "pypi"])
def test_what_is_before_the_colon_of_another_model_is_no_repository(entries: list[CacheEntry], name: str) -> None:
    coder = dataclasses.replace(entries[2], name="demo:coder")
    with pytest.raises(StartupError, match=f"{name} is not in the caches"):
        remove_named(ModelsJob(remove=(name,), asks=False), [*entries, coder])
    assert all(entry.paths[0].exists() for entry in entries)


def test_what_another_process_begins_to_fetch_before_the_answer_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"x")
    entry = CacheEntry(
        "owner/repo", EntryKind.HUB, tmp_path, (path,), (path,), 1, 0.0, locks=(tmp_path / "*.fetching",)
    )
    with contextlib.ExitStack() as download:

        def answer() -> str:
            download.enter_context(exclusive_lock(tmp_path / "abc.fetching", lambda: None))
            return "y\n"

        terminal = SimpleNamespace(isatty=lambda: True, readline=answer)
        monkeypatch.setattr(sys, "stdin", terminal)
        with pytest.raises(StartupError, match="is being downloaded by another process"):
            remove_named(ModelsJob(remove=("owner/repo",)), [entry])
    assert path.exists()


def test_a_rehearsal_removes_nothing(entries: list[CacheEntry], capsys: pytest.CaptureFixture[str]) -> None:
    assert remove_named(ModelsJob(remove=("kernels",), is_rehearsal=True), entries) == 0
    assert "would free 10 bytes; nothing was removed" in capsys.readouterr().out
    assert entries[3].paths[0].exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("kernel",), "kernel is not in the caches; did you mean kernels?"),
        (("kernels", "zzz"), "zzz is not in the caches; headrace models lists"),
        (("kernels",), "needs an answer, and the input is not a terminal; use --yes"),
    ],
)
def test_refusals_come_before_anything_is_removed(
    entries: list[CacheEntry], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(StartupError, match=message):
        remove_named(ModelsJob(remove=names), entries)
    assert all(entry.paths[0].exists() for entry in entries)


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1), ("n\n", 1), ("", 1)])
def test_a_terminal_is_asked(
    entries: list[CacheEntry],
    answer: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert remove_named(ModelsJob(remove=("kernels",)), entries) == code
    assert "Remove it and free 10 bytes? [y/N] " in capsys.readouterr().out
    assert entries[3].paths[0].exists() == (code == 1)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what processes have open")
def test_what_another_process_has_open_stays_unless_forced(entries: list[CacheEntry]) -> None:
    code = f"file = open({str(entries[0].derived[0].paths[0])!r}); print('open', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(StartupError, match=rf"is in use by process {process.pid}; .*--force"):
            remove_named(ModelsJob(remove=(NAME,), asks=False), entries)
        assert entries[0].paths[0].exists()
        remove_named(ModelsJob(remove=(NAME,), asks=False, is_forced=True), entries)
        process.communicate("\n")
    assert not entries[0].paths[0].exists()


def test_the_list_loads_no_torch() -> None:
    code = "import sys, engine.commands.models.__main__; sys.exit(','.join({'torch', 'numpy'} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
