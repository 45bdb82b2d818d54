"""Paths that do not exist are reported within a second, with the engine's messages."""

from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from server.commands.serve.command import check_paths
from server.config.lora import LoraConfig
from server.config.models import ModelEntry, ModelsConfig
from server.config.server import ServerConfig

pytestmark = pytest.mark.fast

MISSING = ["/no/such.gguf", "./no-such", "../no/such", "~/no/such/model", "no-such.gguf", "no/Such.GGUF", "no/such.bin"]
OTHERS = ["demo", "demo:coder", "owner/repo", "owner/repo:file.gguf", "pypi:name==1.0", "name", "/", "."]


@pytest.mark.parametrize("model", MISSING)
def test_a_path_that_does_not_exist_is_refused(model: str) -> None:
    path = str(Path(model).expanduser())
    with pytest.raises(StartupError, match=f"^model path '{path}' does not exist; check the spelling"):
        check_paths(ServerConfig(), EngineConfig(model=model))


@pytest.mark.parametrize("model", OTHERS)
def test_what_may_be_something_else_is_left_to_the_engine(model: str) -> None:
    check_paths(ServerConfig(), EngineConfig(model=model))


def test_a_file_that_exists_is_left_to_the_engine(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    check_paths(ServerConfig(), EngineConfig(model=str(tmp_path / "a.gguf"), draft_model=str(tmp_path)))


def test_a_draft_model_is_named() -> None:
    with pytest.raises(StartupError, match=r"the draft model no.gguf cannot be used: model path 'no.gguf' does not"):
        check_paths(ServerConfig(), EngineConfig(model="demo", draft_model="no.gguf"))


def test_the_one_of_several_models_is_named() -> None:
    entries = tuple(ModelEntry((name,), EngineConfig(model=path)) for name, path in [("a", "demo"), ("b", "/no/such")])
    with pytest.raises(StartupError, match=r"^b: model path '/no/such' does not exist"):
        check_paths(ServerConfig(models=ModelsConfig(entries=entries)), EngineConfig())


def test_a_calibration_is_named() -> None:
    entries = (ModelEntry(("a",), EngineConfig(model="demo"), {"calibration": "/no/such.json"}),)
    several = ServerConfig(models=ModelsConfig(entries=entries))
    for server in (ServerConfig(calibration="/no/such.json"), several):
        with pytest.raises(OptionError, match=r"--calibration /no/such\.json cannot be read: No such file"):
            check_paths(server, EngineConfig(model="demo"))


def test_an_adapter_is_named(tmp_path: Path) -> None:
    server = ServerConfig(lora=LoraConfig(lora_modules=(f"a={tmp_path}", "b=/no/such")))
    with pytest.raises(StartupError, match="--lora-modules b: '/no/such' does not exist"):
        check_paths(server, EngineConfig(enable_lora=True))
    check_paths(server, EngineConfig())  # which is refused for another reason
