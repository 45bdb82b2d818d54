"""Names of models that were given none."""

import os

import pytest

from engine.config import EngineConfig
from server.config.models import default_names
from server.config.server import ServerConfig

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("demo", "demo"),
        ("demo:minilm", "demo:minilm"),
        ("pypi:a+b", "pypi:a+b"),
        ("/srv/models/Qwen3-0.6B-Q8_0.gguf", "Qwen3-0.6B-Q8_0"),
        ("big-00001-of-00003.GGUF", "big"),
        ("models/tiny/", "tiny"),
        ("/srv/v1.5", "v1.5"),
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("unsloth/Qwen3-GGUF:Q4_K_M", "Qwen3-GGUF:Q4_K_M"),
        ("unsloth/Qwen3-GGUF:deep/Qwen3.gguf", "Qwen3"),
        ("/cache/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de289a0", "Qwen3-0.6B"),
        ("/", "/"),
        (".", os.path.basename(os.getcwd())),
        ("./", os.path.basename(os.getcwd())),
    ],
)
def test_a_model_is_named_by_the_last_part_of_its_path_or_repository(model: str, name: str) -> None:
    assert default_names([model]) == [name]


def test_models_with_the_same_last_part_keep_what_was_typed() -> None:
    assert default_names(["a/x.gguf", "b/x", "c/y"]) == ["a/x.gguf", "b/x", "y"]


@pytest.mark.parametrize(
    ("given", "names", "alias"),
    [((), ("m",), "org/m"), (("main", "org/m"), ("main", "org/m"), None), (("main",), ("main",), None)],
)
def test_the_path_stays_an_alias_of_a_model_without_a_served_name(
    given: tuple[str, ...], names: tuple[str, ...], alias: str | None
) -> None:
    (entry,) = ServerConfig(served_model_name=given).model_entries(EngineConfig(model="org/m"))
    assert (entry.names, entry.alias) == (names, alias)
