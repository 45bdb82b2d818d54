import pytest

from server.finetuning.jobs import file_preparation, training
from server.jobs import idle_gate, runner


@pytest.fixture
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for something to happen are short, and looks are frequent."""
    monkeypatch.setattr(idle_gate, "_IDLE_AFTER_S", 0.0)
    monkeypatch.setattr(idle_gate, "_LOOK_S", 0.001)
    monkeypatch.setattr(file_preparation, "_LOOK_S", 0.001)
    monkeypatch.setattr(training, "_LOOK_S", 0.001)
    monkeypatch.setattr(runner, "_LOOK_S", 0.01)
