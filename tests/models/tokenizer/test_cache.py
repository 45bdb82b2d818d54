"""Converted GGUF vocabularies on disk: found again, and made again if a file is damaged."""

from pathlib import Path

import pytest

from models.tokenizer.assets import TokenizerAssets
from models.tokenizer.cache import gguf_key, read_assets, save_assets

pytestmark = pytest.mark.fast

ASSETS = TokenizerAssets(
    tokenizer_json=b'{"model": "\n"}',
    chat_template="{{ x }}\n",
    special_tokens={"bos_token": "<s>"},
    bos_token_id=1,
    eos_token_ids=[2, 3],
    add_bos_token=True,
    fim_ids={"prefix": 4, "suffix": 5},
)
METADATA = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.scores": [0.5, 1.0], "general.name": "x"}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    return tmp_path / "tokenizers"


def test_saved_assets_come_back_whole() -> None:
    save_assets("k", ASSETS)
    assert read_assets("k") == ASSETS
    assert read_assets("other") is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[5:], lambda data: data + b"x", lambda _: b""]
)
def test_damaged_file_is_not_read(cache: Path, damage) -> None:  # type: ignore[no-untyped-def]
    save_assets("k", ASSETS)
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert read_assets("k") is None


def test_key_follows_tokenizer_metadata_and_nothing_else() -> None:
    key = gguf_key(METADATA, [1])
    assert gguf_key({**METADATA, "general.name": "y"}, [1]) == key
    assert gguf_key({**METADATA, "tokenizer.ggml.tokens": ["ab", ""]}, [1]) != key
    assert gguf_key({**METADATA, "tokenizer.ggml.scores": [0.5, 2.0]}, [1]) != key
    assert gguf_key(METADATA, [2]) != key


def test_number_of_files_is_bounded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.tokenizer.cache._MAX_FILES", 3)
    for number in range(5):
        save_assets(str(number), ASSETS)
    assert len(list(cache.iterdir())) == 3


def test_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file where the folder should be")
    save_assets("k", ASSETS)
    assert read_assets("k") is None
