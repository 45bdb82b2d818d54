from pathlib import Path

import pytest
from fastapi import FastAPI

from server.finetuning.jobs import idle_gate, runner, training
from tests.helpers.fake_client import make_app
from tests.helpers.fake_trainer import trained_client


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    """A server whose jobs are trained by FakeChildren."""
    return make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path))


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for something to happen looks at once and often."""
    monkeypatch.setattr(idle_gate, "_IDLE_AFTER_S", 0.0)
    monkeypatch.setattr(idle_gate, "_LOOK_S", 0.001)
    monkeypatch.setattr(training, "_LOOK_S", 0.001)
    monkeypatch.setattr(runner, "_LOOK_S", 0.01)
