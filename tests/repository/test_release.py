"""What a release is made by: the workflow's promises that no runner checks, and the installer's words."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.kernels.cpu.build import _ARM64_LEVELS, _X86_LEVELS
from tests.helpers.repository import ROOT

_WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"
_INSTALLER = ROOT / "install.sh"


@pytest.fixture(scope="module")
def workflow() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(_WORKFLOW.read_text(encoding="utf-8"))
    return loaded


def _uses(workflow: dict[str, Any]) -> list[str]:
    return [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]


def test_actions_are_pinned_by_hash(workflow: dict[str, Any]) -> None:
    uses = _uses(workflow)
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w/.-]+@[0-9a-f]{40}", use)] == []


def test_tools_are_pinned_by_version(workflow: dict[str, Any]) -> None:
    runs = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    tools = [word for run in runs if "-m pip install" in run for word in run.partition("pip install")[2].split()]
    assert tools
    assert [tool for tool in tools if "==" not in tool] == []


def test_only_publishing_may_ask_for_a_token_and_only_tags_publish(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    asking = [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert asking == ["publish"]
    publish = workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "ref_type == 'tag'" in publish["if"]
    assert publish["needs"] == "test"


def test_released_wheels_are_counted_to_have_all_levels_and_the_probe() -> None:
    counts = dict(re.findall(r'(x86_64|aarch64)\) test "\$levels" = (\d+)', _WORKFLOW.read_text(encoding="utf-8")))
    assert counts == {"x86_64": str(len(_X86_LEVELS) + 1), "aarch64": str(len(_ARM64_LEVELS) + 1)}
    assert 'HEADRACE_WHEEL_LEVELS = "all"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _install(home: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(home), **variables}
    return subprocess.run(
        ["sh", str(_INSTALLER), "--with", "pip", *options], env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that is new enough and has venv, as far as the installer asks."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def test_a_dry_run_says_its_commands_and_changes_nothing(tmp_path: Path, python: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    result = _install(home, "--dry-run", PYTHON=str(python))
    assert result.returncode == 0, result.stderr
    assert f"from {ROOT}." in result.stdout
    assert f"{python} -m venv {home}/.local/share/headrace" in result.stdout
    assert list(home.iterdir()) == []


def test_installer_leaves_what_is_not_its_own(tmp_path: Path, python: Path) -> None:
    (tmp_path / "mine").mkdir()
    result = _install(tmp_path, "--dry-run", "--prefix", str(tmp_path / "mine"), PYTHON=str(python))
    assert result.returncode == 1
    assert "is no virtual environment; move it" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--form", "x"), "unknown option --form"),
        (("--from",), "--from needs a value"),
        (("--with", "conda"), "--with is conda; it must be uv or pip"),
    ],
)
def test_wrong_options_of_the_installer_are_refused(
    tmp_path: Path, python: Path, options: tuple[str, ...], message: str
) -> None:
    result = _install(tmp_path, *options, PYTHON=str(python))
    assert result.returncode == 1
    assert message in result.stderr


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    result = _install(tmp_path, "--dry-run", PYTHON=str(old))
    assert result.returncode == 1
    assert "older than 3.11" in result.stderr


def test_the_installer_never_becomes_root() -> None:
    assert "sudo" not in _INSTALLER.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("features", "level"),
    [
        ("fp asimd", "without dot products"),
        ("fp asimd asimddp", "NEON with dot products"),
        ("fp asimd asimddp i8mm", "NEON with dot products"),
        ("fp asimd asimddp i8mm bf16 dgh", "NEON with I8MM and BF16"),
        ("fp asimd asimddp i8mm svebf16 bf16", "NEON with I8MM and BF16"),
    ],
)
def test_the_installer_names_the_level_of_an_arm64_processor(features: str, level: str) -> None:
    functions = re.findall(
        r"^(?:say|cpu_level)\(\) \{.*?\}$", _INSTALLER.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    script = "\n".join([*functions, "machine=aarch64", f"sed() {{ echo '{features}'; }}", "cpu_level"])
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert level in result.stdout
