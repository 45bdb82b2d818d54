"""The panel at the end of a start: it fits the terminal, and what is copied from it is whole."""

import io
import re
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from rich.console import Console

from engine.protocol import EngineInfo, PoolingTask
from server.commands.serve.start_panel import PanelContent, quantization, show_panel, size
from tests.helpers.fake_client import engine_info
from tests.helpers.fake_pooling import pooling_info

URL = "http://127.0.0.1:8000"
INFO = engine_info(
    weight_bytes=500 << 20,
    kv_bytes=4 << 30,
    num_blocks=1000,
    block_size=16,
    kv_windows=[None],
    weight_formats={"q4_k": 100, "q6_k": 20, "f32": 60},
    notes=[
        "Prompts: read in chunks of 560 tokens (0.5 s), or of 70 (0.07 s) while answers are generated",
        "Speculation: prompt lookup of 2 to 5 tokens; up to 8 tokens ahead, as many as save time",
    ],
)


def drawn(width: int, models: dict[str, EngineInfo | None] | None = None, **changes: Any) -> list[str]:
    screen = io.StringIO()
    tries = [("API", f"curl {URL} " + "x" * 200)]
    started = PanelContent("1.2.3", URL, models or {"owner/model": INFO}, "required", tries, **changes)
    show_panel(Console(file=screen, width=width, force_terminal=True, color_system=None), started)
    return screen.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_all_but_the_command_fits(width: int) -> None:
    assert max(cell_len(line) for line in drawn(width) if "curl" not in line) <= width


@pytest.mark.parametrize("width", [40, 80])
def test_the_command_is_one_line(width: int) -> None:
    assert any(line.endswith(f"curl {URL} " + "x" * 200) for line in drawn(width))


def test_a_dtype_of_the_kv_cache_that_is_not_the_models_is_shown() -> None:
    info = msgspec.structs.replace(INFO, kv_cache_dtype="int8")
    assert "4.0 GiB of KV cache in int8 for 16,000 tokens" in "\n".join(drawn(100, {"m": info}))
    same = msgspec.structs.replace(INFO, kv_cache_dtype=INFO.dtype)
    assert "4.0 GiB of KV cache for 16,000 tokens" in "\n".join(drawn(100, {"m": same}))


def test_rows() -> None:
    text = "\n".join(drawn(100))
    for words in (
        "headrace 1.2.3 is ready",
        f"Address    {URL}",
        "Model      owner/model",
        "Memory     500 MiB of weights, 4.0 GiB of KV cache for 16,000 tokens",
        "Quantized  q4_k, q6_k",
        "Prompts    read in chunks of 560 tokens (0.5 s)  ",
        "Drafts     prompt lookup of 2 to 5 tokens; up to 8 tokens ahead, as many as save time",
        "Keys       required",
    ):
        assert words in text


def test_what_adapters_may_take_is_told() -> None:
    text = "\n".join(drawn(120, {"m": engine_info(weight_bytes=500 << 20, adapter_bytes=3 << 30)}))
    assert "KV cache for 1,024 tokens, up to 3.0 GiB for adapters" in text


@pytest.mark.parametrize(
    ("changes", "adapters", "tuning"),
    [
        ({}, None, None),
        ({"adapters": []}, "none yet", None),
        ({"adapters": [], "loadable": ["x"]}, "to load with POST /v1/load_lora_adapter: x", None),
        ({"adapters": ["a"], "loadable": ["x"]}, "a; to load with POST /v1/load_lora_adapter: x", None),
        ({"adapters": ["ann"], "is_finetuning": True}, "ann", "on: POST /v1/fine_tuning/jobs"),
        ({"adapters": ["a", "b", "c", "d", "e"]}, "a, b, c and 2 more", None),
    ],
)
def test_adapters_and_fine_tuning(changes: dict[str, Any], adapters: str | None, tuning: str | None) -> None:
    text = "\n".join(drawn(100, **changes))
    for label, words in (("Adapters", adapters), ("Fine-tuning", tuning)):
        found = re.search(rf"{label} +(.*)", text)
        assert (found is not None and found[1].startswith(words)) if words else found is None


def test_the_command_for_fine_tuning_is_one_to_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.commands.serve.start_panel.program", lambda: ".venv/bin/headrace")
    text = "\n".join(drawn(100, adapters=[], is_finetuning=True))
    assert "on: POST /v1/fine_tuning/jobs, or .venv/bin/headrace finetune" in text


@pytest.mark.parametrize(
    ("changes", "makes"),
    [
        ({}, "embeddings with 4 dimensions"),
        ({"tasks": [PoolingTask.SCORE, PoolingTask.CLASSIFY], "dimensions": 1}, "scores for pairs of texts"),
        ({"tasks": [PoolingTask.CLASSIFY], "labels": ["bad", "good"]}, "classes: bad, good"),
    ],
)
def test_a_pooling_model_has_neither_cache_nor_drafts(changes: dict[str, Any], makes: str) -> None:
    info = engine_info(weight_bytes=87 << 20, num_blocks=0, kv_windows=[], pooling=pooling_info(**changes))
    for models in ({"m": info}, {"m": info, "n": INFO}):
        text = "\n".join(line for line in drawn(200, models) if "n: " not in line)
        assert makes in text
        assert "87 MiB of weights" in text
        assert "KV cache" not in text
        assert "Drafts" not in text


def test_a_narrow_terminal_has_no_border() -> None:
    assert not any("│" in line for line in drawn(40))
    assert any("│" in line for line in drawn(60))


def test_each_of_several_models_has_a_row() -> None:
    text = "\n".join(drawn(100, {"chat": INFO, "coder": None}))
    assert "chat: " in text
    assert "coder: loaded by its first request" in text


def test_windows_have_blocks_instead_of_tokens() -> None:
    windows = engine_info(num_blocks=1000, block_size=16, kv_windows=[None, 512])
    assert "1,000 blocks of 16 tokens" in "\n".join(drawn(100, {"m": windows}))


@pytest.mark.parametrize(("formats", "words"), [({}, ""), ({"bf16": 3}, ""), ({"q8_0": 1, "q4_1": 9}, "q4_1, q8_0")])
def test_quantization(formats: dict[str, int], words: str) -> None:
    assert quantization(formats) == words


@pytest.mark.parametrize(("num_bytes", "words"), [(97 << 20, "97 MiB"), (3 << 29, "1.5 GiB")])
def test_sizes(num_bytes: int, words: str) -> None:
    assert size(num_bytes) == words
