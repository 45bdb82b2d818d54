"""Fixtures of the integration tests."""

from pathlib import Path

import pytest

from tests.integrations.programs import Workplace


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace.make(tmp_path)
