"""Protection of this process from requests that are drawn from the description."""

import logging
import os
from collections.abc import Iterator

import pytest

from engine.child_processes.log_format import LEVEL_VARIABLE


@pytest.fixture(autouse=True)
def _log_level_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(LEVEL_VARIABLE, os.environ.get(LEVEL_VARIABLE, "info"))
    levels = {name: logging.getLogger(name).level for name in ("root", "uvicorn")}
    yield
    for name, level in levels.items():
        logging.getLogger(None if name == "root" else name).setLevel(level)
