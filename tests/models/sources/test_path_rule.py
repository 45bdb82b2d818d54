"""The server knows the same paths for missing ones as the loader, which it cannot import."""

from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import StartupError
from models.errors import SourceError
from models.sources.resolve import find_local
from server.commands.serve.command import check_paths
from server.config.server import ServerConfig
from tests.server.commands.serve.test_missing_paths import MISSING, OTHERS


@pytest.mark.parametrize("model", [*MISSING, *OTHERS])
def test_both_say_the_same(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str | None] = []
    for look in (lambda: find_local(model), lambda: check_paths(ServerConfig(), EngineConfig(model=model))):
        try:
            look()
            said.append(None)
        except (SourceError, StartupError) as error:
            said.append(str(error) if "does not exist" in str(error) else None)
    assert said[0] == said[1]
