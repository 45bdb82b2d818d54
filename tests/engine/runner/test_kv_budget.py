"""plan_kv_budget: the pool's size, and the refusals."""

import pytest

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.runner.kv_budget import KVBudget, format_bytes, plan_kv_budget
from engine.scheduling.kv.groups import KVGroup

MIB = 1 << 20


def _plan(
    free_bytes: int = 1000 * MIB,
    model_max_len: int = 2048,
    groups: tuple[KVGroup, ...] = (KVGroup(16),),
    bytes_per_state: int = 0,
    reserved_bytes: int = 0,
    default_bytes: int | None = None,
    **options: object,
) -> KVBudget:
    config = EngineConfig(**options)  # type: ignore[arg-type]
    return plan_kv_budget(
        config,
        groups=groups,
        bytes_per_block=MIB,
        bytes_per_state=bytes_per_state,
        model_max_len=model_max_len,
        free_bytes=free_bytes,
        reserved_bytes=reserved_bytes,
        default_bytes=default_bytes,
    )


def test_an_explicit_size_is_used_whole() -> None:
    budget = _plan(kv_cache_memory_bytes=100 * MIB + 5)
    assert (budget.num_blocks, budget.kv_bytes) == (100, 100 * MIB)


def test_the_default_is_a_share_of_free_memory() -> None:
    assert _plan().num_blocks == 400


def test_the_default_is_a_share_of_what_is_not_reserved() -> None:
    assert _plan(reserved_bytes=500 * MIB).num_blocks == 200
    assert _plan(reserved_bytes=500 * MIB, kv_cache_memory_bytes=900 * MIB).num_blocks == 900


def test_a_device_gives_what_utilization_leaves() -> None:
    budget = _plan(default_bytes=700 * MIB, reserved_bytes=100 * MIB, gpu_memory_utilization=0.8)
    assert (budget.num_blocks, budget.reason) == (600, "what --gpu-memory-utilization 0.8 leaves beside a full step")
    assert _plan(default_bytes=700 * MIB, kv_cache_memory_bytes=900 * MIB).num_blocks == 900


def test_the_default_is_bounded_by_what_requests_can_use() -> None:
    assert _plan(max_num_seqs=2, max_model_len=64).num_blocks == 8


def test_the_default_is_bounded_on_a_large_machine() -> None:
    assert _plan(free_bytes=1 << 40).kv_bytes == 4 << 30


def test_the_context_shrinks_to_what_the_pool_holds() -> None:
    assert _plan(kv_cache_memory_bytes=10 * MIB).max_model_len == 160
    assert _plan(kv_cache_memory_bytes=500 * MIB).max_model_len == 2048


@pytest.mark.parametrize(
    ("options", "model_max_len", "is_short"),
    [
        ({"kv_cache_memory_bytes": 2 * MIB}, 2048, True),  # 32 tokens
        ({"kv_cache_memory_bytes": 31 * MIB}, 2048, True),
        ({"kv_cache_memory_bytes": 32 * MIB}, 2048, False),  # 512
        ({"kv_cache_memory_bytes": 32 * MIB}, 8192, True),  # a sixteenth of the model's
        ({"kv_cache_memory_bytes": 64 * MIB}, 8192, False),
        ({"kv_cache_memory_bytes": 16 * MIB}, 256, False),  # all that the model takes
        ({"kv_cache_memory_bytes": 2 * MIB, "max_model_len": 32}, 2048, False),  # asked for
    ],
)
def test_a_context_that_is_short_by_accident_is_reported(
    options: dict[str, int], model_max_len: int, is_short: bool
) -> None:
    assert bool(_plan(model_max_len=model_max_len, **options).warnings) == is_short


def test_the_warning_of_a_short_context_says_what_to_do() -> None:
    [warning] = _plan(kv_cache_memory_bytes=2 * MIB).warnings
    assert warning == (
        "the KV cache of 2.0 MiB holds 32 tokens, but the model takes 2,048; longer requests are refused; give "
        "--kv-cache-memory-bytes 134217728 (128.0 MiB) for all of them, or --max-model-len 32 if that is enough"
    )


def test_windows_make_the_context_longer() -> None:
    full_and_window = (KVGroup(16), KVGroup(16, window=33))
    assert _plan(groups=full_and_window, kv_cache_memory_bytes=20 * MIB).max_model_len == 16 * 16
    assert _plan(groups=(KVGroup(16, window=33),), kv_cache_memory_bytes=10 * MIB).max_model_len == 2048


WITH_STATES = (KVGroup(16), KVGroup(16, is_state=True))


def test_small_states_are_as_many_as_requests_can_use() -> None:
    budget = _plan(groups=WITH_STATES, bytes_per_state=MIB // 100, kv_cache_memory_bytes=400 * MIB, max_num_seqs=8)
    assert budget.num_states == 3 * 8
    assert budget.state_bytes == budget.num_states * (MIB // 100)
    assert budget.num_blocks == 399


def test_large_states_share_the_memory_as_usual_sequences_do() -> None:
    budget = _plan(groups=WITH_STATES, bytes_per_state=64 * MIB, kv_cache_memory_bytes=800 * MIB)
    assert budget.num_states == 800 * 3 // (8192 // 16 + 3 * 64)
    assert budget.num_blocks == 800 - 64 * budget.num_states


def test_states_leave_memory_for_the_requested_context() -> None:
    budget = _plan(
        groups=WITH_STATES, bytes_per_state=64 * MIB, kv_cache_memory_bytes=256 * MIB, max_model_len=128 * 16
    )
    assert (budget.num_states, budget.max_model_len) == (1, 2048)


def test_a_pool_too_small_for_one_state_is_refused() -> None:
    with pytest.raises(StartupError, match=r"do not hold one block of 16 tokens and one recurrent state \(65.0 MiB\)"):
        _plan(groups=WITH_STATES, bytes_per_state=64 * MIB, kv_cache_memory_bytes=64 * MIB)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_model_len": 4096}, "the model takes at most 2,048"),
        ({"max_model_len": 2048, "kv_cache_memory_bytes": 10 * MIB}, "holds 160 tokens.*128.0 MiB"),
        ({"kv_cache_memory_bytes": 2000 * MIB}, "1000.0 MiB of memory are free"),
        ({"kv_cache_memory_bytes": 10}, "do not hold one block"),
    ],
)
def test_what_does_not_fit_is_refused_with_numbers(options: dict[str, int], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        _plan(**options)


def test_format_bytes_chooses_the_unit() -> None:
    assert [format_bytes(n) for n in (512, 2048, 3 * MIB, 1_932_735_283)] == ["512 B", "2.0 KiB", "3.0 MiB", "1.8 GiB"]
