"""Fixtures of the integration tests."""

import shutil
from pathlib import Path

import pytest

from tests.integrations.programs import Workplace

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def browser() -> str:
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(_BROWSERS)} is installed")
    return found


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace.make(tmp_path)
