"""plan_memory: weights first, then KV caches; the sum is never more than the limit."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.command_io.weighing import Weighed
from engine.errors import StartupError
from server.served.memory_plan import PROCESS_BYTES, MemoryNeed, plan_memory

pytestmark = pytest.mark.fast

GIB = 1 << 30


def _claim(name: str, weights: float, least: float = 0.25, most: float = 100.0, **options: object) -> MemoryNeed:
    weighed = Weighed(
        weight_bytes=int(weights * GIB),
        least_kv_bytes=int(least * GIB),
        most_kv_bytes=int(most * GIB),
        free_bytes=20 * GIB,
    )
    return MemoryNeed(name, weighed, **options)  # type: ignore[arg-type]


def test_what_the_weights_leave_is_divided_by_share() -> None:
    plan = plan_memory([_claim("a", 2, kv_share=3.0), _claim("b", 3)], 16 * GIB, loads_on_demand=False)
    first, second = (grant.kv_bytes - 0.25 * GIB for grant in plan.grants)
    room = 0.4 * (16 * GIB - 5 * GIB - 2 * PROCESS_BYTES) - 0.5 * GIB
    assert first == pytest.approx(room * 3 / 4, abs=2)
    assert second == pytest.approx(room / 4, abs=2)


def test_what_one_cannot_use_the_others_get() -> None:
    plan = plan_memory([_claim("a", 1, most=0.5), _claim("b", 1)], 16 * GIB, loads_on_demand=False)
    assert plan.grants[0].kv_bytes == GIB // 2
    assert plan.grants[1].kv_bytes == 4 * GIB, "as an engine alone is bounded"


def test_a_size_that_was_asked_for_is_given() -> None:
    plan = plan_memory([_claim("a", 1, kv_bytes=7 * GIB), _claim("b", 1)], 12 * GIB, loads_on_demand=False)
    assert plan.grants[0].kv_bytes == 7 * GIB


def test_by_default_most_of_what_is_free_may_be_used() -> None:
    assert plan_memory([_claim("a", 1)], None, loads_on_demand=False).limits == {"cpu": 16 * GIB}


def test_adapters_are_planned_beside_the_weights() -> None:
    adapted = _claim("a", 1, kv_bytes=GIB)
    adapted = replace(adapted, weighed=msgspec.structs.replace(adapted.weighed, adapter_bytes=3 * GIB))
    [grant] = plan_memory([adapted], 16 * GIB, loads_on_demand=False).grants
    assert grant.need_bytes == 5 * GIB + PROCESS_BYTES
    with pytest.raises(StartupError, match=r"\+ 3.00 GiB for adapters \+ 0.50 GiB.*smaller adapters \(max-lora-rank"):
        plan_memory([adapted], 5 * GIB, loads_on_demand=False)


def test_blocks_on_their_way_to_disk_are_planned_beside_the_cache() -> None:
    claim = _claim("a", 1, kv_bytes=4 * GIB, offloads=True)
    [grant] = plan_memory([claim], 16 * GIB, loads_on_demand=False).grants
    assert (grant.kv_bytes, grant.need_bytes) == (4 * GIB, 5 * GIB + PROCESS_BYTES + GIB // 4 + GIB)
    with pytest.raises(StartupError, match=r"\+ 1.25 GiB for blocks on their way to and from disk \+ 0.50 GiB"):
        plan_memory([claim], 6 * GIB, loads_on_demand=False)


def test_models_that_do_not_fit_are_refused_with_the_sum() -> None:
    claims = [_claim("a", 5), _claim("b", 4)]
    with pytest.raises(StartupError) as refused:
        plan_memory(claims, 8 * GIB, loads_on_demand=False)
    message = str(refused.value)
    assert "need 10.50 GiB together and may have 8.00 GiB (--models-memory)" in message
    assert "a: 5.00 GiB of weights + 0.25 GiB of KV cache + 0.50 GiB for its process" in message
    assert "--load-on-demand" in message
    plan = plan_memory(claims, 8 * GIB, loads_on_demand=True)
    assert all(grant.need_bytes <= 8 * GIB for grant in plan.grants)


def test_one_that_comes_and_goes_fits_beside_those_that_stay() -> None:
    claims = [_claim("a", 5, is_pinned=True), _claim("b", 4)]
    with pytest.raises(StartupError, match=r"need 10.50 GiB together") as refused:
        plan_memory(claims, 8 * GIB, loads_on_demand=True)
    assert "--load-on-demand" not in str(refused.value)
    plan = plan_memory(claims, 11 * GIB, loads_on_demand=True)
    assert sum(grant.need_bytes for grant in plan.grants) <= 11 * GIB


def _on(device: str, claim: MemoryNeed, free: int = 80) -> MemoryNeed:
    """A model on a GPU, whose engine also takes 2 GiB of host memory."""
    weighed = msgspec.structs.replace(
        claim.weighed, device=device, free_bytes=free * GIB, host_free_bytes=20 * GIB, adapter_bytes=0
    )
    return replace(claim, weighed=weighed, gpu_share=0.9)


def test_each_device_has_a_plan_of_its_own() -> None:
    claims = [_claim("a", 1), _on("cuda:0", _claim("b", 16)), _on("cuda:1", _claim("c", 60, most=5.0))]
    plan = plan_memory(claims, None, loads_on_demand=False)

    assert plan.limits == {"cpu": (16 - 2 * 2) * GIB, "cuda:0": 72 * GIB, "cuda:1": 72 * GIB}
    assert [(grant.name, grant.device) for grant in plan.grants] == [("a", "cpu"), ("b", "cuda:0"), ("c", "cuda:1")]
    assert [grant.kv_bytes // GIB for grant in plan.grants[1:]] == [72 - 16 - 2, 5]  # all that is left, or can be used


def test_models_of_one_gpu_share_its_memory() -> None:
    claims = [_on("cuda:0", _claim("a", 10, kv_share=3.0)), _on("cuda:0", _claim("b", 20))]
    first, second = plan_memory(claims, None, loads_on_demand=False).grants

    room = (72 - 30 - 2 * 2) * GIB - GIB // 2
    assert first.kv_bytes - GIB // 4 == pytest.approx(room * 3 / 4, abs=2)
    assert second.kv_bytes - GIB // 4 == pytest.approx(room / 4, abs=2)


def test_a_gpu_that_is_too_small_is_named() -> None:
    with pytest.raises(StartupError, match=r"may have 21.60 GiB \(what --gpu-memory-utilization leaves .* on cuda:1\)"):
        plan_memory([_on("cuda:1", _claim("a", 30), free=24)], 4 * GIB, loads_on_demand=False)


def test_engines_of_gpus_need_host_memory() -> None:
    claims = [_on("cuda:0", _claim(name, 1)) for name in "abc"]
    with pytest.raises(StartupError, match=r"engines of 3 models on GPUs need 6.00 GiB of host memory .* 5.00 GiB"):
        plan_memory(claims, 5 * GIB, loads_on_demand=False)
    assert plan_memory(claims, 6 * GIB, loads_on_demand=False).limits == {"cuda:0": 72 * GIB}


def test_on_demand_models_of_a_gpu_take_the_host_memory_of_those_that_it_can_hold() -> None:
    host, pinned = _claim("host", 1), _on("cuda:0", _claim("pinned", 10, is_pinned=True))
    large = [_on("cuda:0", _claim(name, 40)) for name in "abc"]  # of which 72 GiB hold one beside the pinned model
    small = [_on("cuda:1", _claim(name, 20)) for name in "def"]  # of which 72 GiB hold three
    plan = plan_memory([host, pinned, *large, *small], None, loads_on_demand=True)
    assert plan.limits["cpu"] == (16 - 2 * (1 + 1 + 3)) * GIB
    assert plan_memory([pinned, *large], 4 * GIB, loads_on_demand=True).limits == {"cuda:0": 72 * GIB}
    with pytest.raises(StartupError, match=r"need 4.00 GiB of host memory .* 3.00 GiB"):
        plan_memory([pinned, *large], 3 * GIB, loads_on_demand=True)


@given(
    models=st.lists(st.tuples(st.floats(0, 8), st.sampled_from(["cpu", "cuda:0", "cuda:1"])), min_size=1, max_size=5),
    limit=st.floats(1, 40),
)
def test_no_device_promises_more_than_it_has(models: list[tuple[float, str]], limit: float) -> None:
    claims = [
        claim if device == "cpu" else _on(device, claim, free=24)
        for claim, device in ((_claim(str(number), size), device) for number, (size, device) in enumerate(models))
    ]
    try:
        plan = plan_memory(claims, int(limit * GIB), loads_on_demand=False)
    except StartupError:
        return
    for device, limit_bytes in plan.limits.items():
        assert sum(grant.need_bytes for grant in plan.grants if grant.device == device) <= limit_bytes
    on_gpus = sum(claim.host_bytes for claim in claims)
    assert plan.limits.get("cpu", 0) + on_gpus <= limit * GIB


SIZES = st.floats(0, 8, allow_nan=False)


@given(
    models=st.lists(
        st.tuples(SIZES, SIZES, SIZES, st.booleans(), st.floats(0.1, 10), st.booleans()), min_size=1, max_size=5
    ),
    limit=st.floats(0.1, 40),
    loads_on_demand=st.booleans(),
)
def test_no_byte_is_promised_twice(
    models: list[tuple[float, float, float, bool, float, bool]], limit: float, loads_on_demand: bool
) -> None:
    claims = [
        _claim(str(index), weights, least, least + more, is_pinned=is_pinned, kv_share=share, offloads=offloads)
        for index, (weights, least, more, is_pinned, share, offloads) in enumerate(models)
    ]
    limit_bytes = int(limit * GIB)
    least = {claim.name: claim.total_bytes(claim.least_kv_bytes) for claim in claims}
    stay = [claim for claim in claims if claim.is_pinned or not loads_on_demand]
    others = [claim for claim in claims if claim not in stay]
    needed = sum(least[claim.name] for claim in stay) + max((least[claim.name] for claim in others), default=0)
    try:
        plan = plan_memory(claims, limit_bytes, loads_on_demand=loads_on_demand)
    except StartupError:
        assert needed > limit_bytes
        return
    grants = {grant.name: grant for grant in plan.grants}
    stays = sum(grants[claim.name].need_bytes for claim in stay)
    assert stays + max((grants[claim.name].need_bytes for claim in others), default=0) <= limit_bytes
    for claim in claims:
        assert grants[claim.name].kv_bytes >= claim.least_kv_bytes
        assert grants[claim.name].need_bytes >= least[claim.name]
