"""pip_with_progress: what `make serve` says while pip copies packages without a word."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.repository import ROOT


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pip_with_progress", ROOT / "deploy" / "pip_with_progress.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_package_that_is_copied_is_named(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pip").mkdir()
    before = {"pip"}
    assert script.describe(tmp_path, before) is None
    (tmp_path / "numpy").mkdir()
    assert script.describe(tmp_path, before) == "installing numpy, 0 packages done"
    (tmp_path / "numpy-2.0.dist-info").mkdir()
    (tmp_path / "~umpy").mkdir()  # what pip is about to replace
    assert script.describe(tmp_path, before) == "installing numpy, 1 package done"


@pytest.mark.parametrize(
    ("version", "is_terminal", "has_bar"),
    [("23.2.1", True, False), ("25.1", True, True), ("26.3.dev0", True, True), ("26.3", False, False)],
)
def test_a_pip_with_a_bar_is_left_alone(script: ModuleType, version: str, is_terminal: bool, has_bar: bool) -> None:
    assert script.has_bar(version, is_terminal=is_terminal) is has_bar


def test_pip_does_what_it_is_told_and_its_exit_code_is_returned(script: ModuleType) -> None:
    assert script.main(["--quiet", "--disable-pip-version-check", "--no-index", "no-such-package-here"]) == 1
