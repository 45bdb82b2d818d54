"""A GPU that fails for good, as far as the engine can tell: it ends, and the next one continues its streams."""

import json
from pathlib import Path

from engine.config import Device, DType, EngineConfig, LoadFormat
from engine.protocol import EngineRequest, SamplingParams
from engine.startup.build import build_engine
from tests.helpers.checkpoints import llama_config
from tests.helpers.local_client import LocalClient
from tests.helpers.server_process import ServerProcess

PROMPT, NUM_TOKENS, LOST_STEP = [*b"The engine"], 24, 16


def test_a_stream_continues_after_a_device_was_lost(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    fields = {**llama_config(vocab_size=300).to_dict(), "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(fields))
    options = ("--load-format", "dummy", "--dtype", "float32", "--device", "cpu", "--threads", "1")
    sizes = ("--kv-cache-memory-bytes", "1MiB", "--max-num-batched-tokens", "256")
    body = {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True, "return_token_ids": True}

    with ServerProcess(tmp_path / "log", str(folder), *options, *sizes, faults=f"step:lost:{LOST_STEP}") as server:
        server.wait_ready()
        with server.client() as client:
            answer = client.post("/v1/completions", json=body)
            card = client.get("/v1/models").json()["data"][0]["headrace"]
        log = server.log
        num_restarts = server.metric("headrace_engine_restarts_total")

    assert answer.status_code == 200, log
    assert answer.json()["choices"][0]["token_ids"] == expected_ids(folder), log
    assert num_restarts == 1
    assert "the device has failed for good (CUDA error: an illegal memory access was encountered (injected))" in log
    assert "fails alone" not in log
    assert card["load_format"] == "dummy"
    assert "/dummy-" in answer.json()["system_fingerprint"]


def expected_ids(folder: Path) -> list[int]:
    """The tokens of an engine in this process, without a fault."""
    config = EngineConfig(
        str(folder),
        load_format=LoadFormat.DUMMY,
        dtype=DType.FLOAT32,
        device=Device.CPU,
        threads=1,
        kv_cache_memory_bytes=1 << 20,
    )
    engine, _ = build_engine(config, lambda *_: None)
    sampling = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    request = EngineRequest(id="r", prompt_ids=PROMPT, sampling=sampling, arrival_s=0.0)
    return LocalClient(engine).generate([request])["r"].new_ids
