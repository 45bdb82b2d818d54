"""The grammar of `headrace models` and `headrace pull`: what reaches the processes that do the work."""

from typing import Any

import msgspec
import pytest

from engine.command_io.models_config import ModelsJob
from server import cli
from server.commands import child_process

pytestmark = pytest.mark.fast


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The jobs that would have been run."""
    seen: list[tuple[str, str]] = []

    def run_module(name: str, job: str, **_: str) -> int:
        seen.append((name, job))
        return 0

    monkeypatch.setattr(child_process, "run_module", run_module)
    return seen


@pytest.mark.parametrize(
    ("arguments", "job"),
    [
        ("", ModelsJob()),
        ("--json", ModelsJob(as_json=True)),
        ("remove a b", ModelsJob(remove=("a", "b"))),
        ("remove a --yes --dry-run --force", ModelsJob(remove=("a",), asks=False, is_rehearsal=True, is_forced=True)),
    ],
)
def test_models(arguments: str, job: ModelsJob, jobs: list[tuple[str, str]]) -> None:
    assert cli.main(["models", *arguments.split()]) == 0
    ((name, encoded),) = jobs
    assert name == "engine.commands.models"
    assert msgspec.json.decode(encoded, type=ModelsJob) == job


@pytest.mark.parametrize(
    ("arguments", "job"),
    [
        ("", ["demo", None]),
        ("owner/repo:Q4_K_M", ["owner/repo:Q4_K_M", None]),
        ("owner/repo --revision v1", ["owner/repo", "v1"]),
    ],
)
def test_pull(arguments: str, job: list[Any], jobs: list[tuple[str, str]]) -> None:
    assert cli.main(["pull", *arguments.split()]) == 0
    assert jobs == [("engine.commands.pull", msgspec.json.encode(job).decode())]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("models remove", "the following arguments are required: NAME"),
        ("models --jsn", "unknown option --jsn"),
        ("pull a b", "unexpected argument b"),
        ("pull --bogus", "unknown option --bogus"),
        ("pull a\udcff", "is not valid UTF-8"),
        ("models remove a\udcff", "is not valid UTF-8"),
    ],
)
def test_wrong_options(
    arguments: str, message: str, jobs: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    assert message in capsys.readouterr().err
    assert jobs == []
