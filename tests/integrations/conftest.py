"""Fixtures of the integration tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.demo_adapters import save_demo_adapter
from tests.helpers.server_process import ServerProcess
from tests.integrations.programs import Workplace

CHAT_MODEL, EMBEDDING_MODEL, ADAPTER = "demo", "minilm", "sql"
# ADAPTERS: a folder with adapters of the chat model, `sql` and a second version of it.
_SERVED = f"""
models:
  {CHAT_MODEL}: {{model: demo, kv-cache-memory-bytes: 512MiB, enable-lora: true, max-lora-rank: 8}}
  {EMBEDDING_MODEL}: "demo:minilm"
lora-modules: [{ADAPTER}=ADAPTERS/sql]
adapter-dir: ADAPTERS
finetune-yield: never # at the idle priority, other programs may leave a job nothing
"""

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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A chat model with an adapter and one that makes embeddings, with files, batches and fine-tuning jobs."""
    folder = tmp_path_factory.mktemp("server")
    for seed, name in enumerate(("sql", "sql-v2")):
        save_demo_adapter(folder / "adapters" / name, seed)
    config = folder / "headrace.yaml"
    config.write_text(_SERVED.replace("ADAPTERS", str(folder / "adapters")))
    with ServerProcess(folder / "log", "--config", str(config), "--data-dir", str(folder / "data")) as running:
        running.wait_ready()
        yield running
