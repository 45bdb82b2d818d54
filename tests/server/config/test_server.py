"""ServerConfig: accepted and refused values."""

import pytest

from server.config.server import ServerConfig

pytestmark = pytest.mark.fast


def test_the_data_folder_may_be_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert ServerConfig(data_dir="~/data").data_dir == "/home/someone/data"
    assert ServerConfig(data_dir="data").data_dir == "data"
    assert ServerConfig().data_dir is None
