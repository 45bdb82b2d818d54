"""--kv-offload-dir: an engine finds the blocks of the one before it, and refuses what cannot be kept."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PretrainedConfig

from engine.command_io.findings import ModelToCheck
from engine.commands.doctor.model import find_model_problems
from engine.config import Device, DType, EngineConfig, KVCacheDType
from engine.engine import Engine
from engine.errors import OptionError, StartupError
from engine.protocol import EngineInfo, HandlePrefix, NamedPrefix, PrefixAction, StepStats
from engine.quality import records
from engine.scheduling.steps.budget import StepBudget
from engine.startup import build
from engine.startup.build import build_engine
from tests.helpers.checkpoints import llama_config
from tests.helpers.engines import make_request
from tests.helpers.kv_subscriber import CollectingPublisher
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.models.families.recurrent_variants import lfm2, qwen35
from tests.models.families.rwkv7_variants import rwkv7
from tests.models.families.state_space_variants import falcon_h1, granite_hybrid, mamba

PROMPT = [(7 * number) % 250 for number in range(100)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("model"), llama_config(vocab_size=VOCAB_SIZE))


@pytest.fixture(autouse=True)
def surely_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make every read seem faster than to compute anything, as it is with models of a useful size."""
    monkeypatch.setattr(StepBudget, "prefill_s", lambda *_: math.inf)
    monkeypatch.setattr(records, "cache_folder", lambda: tmp_path / "cache")


def start(model: Path, folder: Path | None, **options: Any) -> tuple[Engine, EngineInfo]:
    config = EngineConfig(
        model=str(model),
        device=Device.CPU,
        dtype=DType.FLOAT32,
        threads=1,
        max_model_len=128,
        max_num_seqs=4,
        kv_cache_memory_bytes=1 << 20,
        weight_cache=False,
        kv_offload_dir=None if folder is None else str(folder),
        **options,
    )
    return build_engine(config, lambda *_: None)


def answer(engine: Engine, prompt: list[int] = PROMPT) -> tuple[list[int], list[StepStats]]:
    ids: list[int] = []
    stats = []
    engine.add(make_request("a", prompt, max_tokens=8, temperature=0.0))
    while engine.has_work or engine.is_preparing:
        if not engine.has_work:
            engine.wait_for_prepared()
        outputs = engine.step()
        stats.append(outputs.stats)
        ids += [id for output in outputs.outputs for id in output.new_ids]
    return ids, stats


def test_an_engine_continues_from_the_blocks_of_the_one_before_it(model: Path, tmp_path: Path) -> None:
    expected, _ = answer(start(model, None)[0])
    first, info = start(model, tmp_path / "kv", kv_persist=True)
    assert any(note.endswith("tokens, written when computed; 0 blocks of this model there") for note in info.notes)
    assert answer(first)[0] == expected
    first.close()
    second, info = start(model, tmp_path / "kv", kv_persist=True)
    assert any("6 blocks of this model there" in note for note in info.notes)
    assert info.kv_folder is not None
    assert len([*Path(info.kv_folder).rglob("*.kv")]) == 6
    ids, stats = answer(second)
    second.close()
    assert ids == expected
    assert sum(each.tier_restored_tokens for each in stats) == 96
    assert sum(each.tier_hits for each in stats) == 6
    assert sum(each.prefill_tokens for each in stats) == 4
    assert stats[-1].tier_bytes > 0


def test_a_saved_prefix_is_there_at_the_next_start(model: Path, tmp_path: Path) -> None:
    """Without --kv-persist."""
    first, _ = start(model, tmp_path / "kv")
    expected, _ = answer(first)
    first.handle(HandlePrefix(0, PrefixAction.SAVE, NamedPrefix(name="a", prompt_ids=PROMPT)))
    first.step()
    first.close()
    second, _ = start(model, tmp_path / "kv")
    ids, stats = answer(second)
    second.close()
    assert ids == expected
    assert sum(each.tier_restored_tokens for each in stats) == len(PROMPT) // 16 * 16


def test_evicted_blocks_come_back(model: Path, tmp_path: Path) -> None:
    """Without --kv-persist."""
    engine, info = start(model, tmp_path / "kv")
    expected, _ = answer(engine)
    for number in range(info.num_blocks // (len(PROMPT) // info.block_size) + 1):
        answer(engine, [number + 1, *PROMPT[1:]])
    ids, stats = answer(engine)
    engine.close()
    assert ids == expected
    assert sum(each.tier_restored_tokens for each in stats) > 0


def test_another_dtype_of_the_cache_finds_nothing(model: Path, tmp_path: Path) -> None:
    first, _ = start(model, tmp_path / "kv", kv_persist=True)
    answer(first)
    first.close()
    second, _ = start(model, tmp_path / "kv", kv_persist=True, kv_cache_dtype=KVCacheDType.INT8)
    _, stats = answer(second)
    second.close()
    assert sum(each.tier_hits for each in stats) == 0


RECURRENT = {
    "also has recurrent states": [lfm2, qwen35, granite_hybrid, falcon_h1],
    "has recurrent states alone": [rwkv7, mamba],
}


@pytest.mark.parametrize(
    ("make_config", "what"), [(make, what) for what, all_of_kind in RECURRENT.items() for make in all_of_kind]
)
def test_recurrent_layers_are_refused_by_name(
    make_config: Callable[..., PretrainedConfig], what: str, tmp_path: Path
) -> None:
    """By doctor too, before anything is loaded."""
    config = make_config(vocab_size=VOCAB_SIZE)
    folder = write_model_folder(tmp_path / "model", config)
    message = rf"{config.architectures[0]} {what}, which are not kept; leave it out"
    with pytest.raises(OptionError, match=message):
        start(folder, tmp_path / "kv")
    checked = find_model_problems([ModelToCheck("", EngineConfig(str(folder), kv_offload_dir=str(tmp_path)))])
    assert re.search(message, checked.findings[-1].message)


def test_memory_of_blocks_on_their_way_counts(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "free_memory_bytes", lambda _: 200 << 20)
    warnings = start(model, tmp_path / "kv")[1].warnings
    assert any("may take 256.2 MiB of memory, and beside the KV cache of 1.0 MiB" in each for each in warnings)
    assert start(model, None)[1].warnings == []
    config = EngineConfig(str(model), kv_offload_dir=str(tmp_path), kv_cache_memory_bytes=4 << 20)
    finding = find_model_problems([ModelToCheck("", config)]).findings[-1]
    assert "; 257.0 MiB for blocks on their way to and from disk; " in finding.message


def test_a_bound_below_a_block_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"may have 100 bytes .*less than one block"):
        start(model, tmp_path / "kv", kv_offload_max_bytes=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_persist": True}, "--kv-persist is on, but no folder is given; add --kv-offload-dir"),
        ({"kv_offload_max_bytes": 5000}, "--kv-offload-max-bytes is 5,000, but no folder is given"),
        ({"kv_offload_dir": "x", "enable_prefix_caching": False}, "which --no-enable-prefix-caching does without"),
    ],
)
def test_options_that_do_nothing_alone_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        EngineConfig(**options)


def test_events_name_the_blocks_in_the_pool_and_on_disk(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = CollectingPublisher()
    monkeypatch.setattr(build, "open_publisher", lambda _: publisher)
    engine, info = start(model, tmp_path / "kv", kv_persist=True, kv_events="tcp://127.0.0.1:5557")
    answer(engine)
    engine.close()
    assert any(note.startswith("KV events: tcp://127.0.0.1:5557, with clients' prompts") for note in info.notes)
    cached = publisher.subscriber.cached
    assert len(cached["GPU"]) == 107 // info.block_size
    assert cached["DISK"] == cached["GPU"]
    after = CollectingPublisher()
    monkeypatch.setattr(build, "open_publisher", lambda _: after)
    second, _ = start(model, tmp_path / "kv", kv_persist=True, kv_events="tcp://127.0.0.1:5557")
    assert after.subscriber.cached == {"DISK": cached["DISK"]}
    answer(second)
    second.close()
    assert after.subscriber.cached["GPU"] == cached["GPU"]
