"""What adapters may take of the memory, and what is said of it."""

import pytest

from engine.startup.adapter_memory import AdapterMemory

MIB = 1 << 20
_USUAL = AdapterMemory(rank=64, num_slots=8, slot_bytes=MIB, num_copies=16, copy_bytes=2 * MIB, is_on_host=True)
_TOTAL = 8 * MIB + 18 * 2 * MIB  # two copies more: one that an operator loads, and one that a slot waits for


def test_slots_and_copies_are_counted() -> None:
    assert _USUAL.total_bytes == _USUAL.device_bytes == _TOTAL
    assert _USUAL.note() == "Adapters: 8 slots of 1.0 MiB and 16 copies of 2.0 MiB at rank 64; up to 44.0 MiB in all"


def test_on_a_gpu_the_copies_are_elsewhere() -> None:
    on_gpu = AdapterMemory(rank=64, num_slots=8, slot_bytes=MIB, num_copies=16, copy_bytes=2 * MIB, is_on_host=False)
    assert (on_gpu.total_bytes, on_gpu.device_bytes) == (_TOTAL, 8 * MIB)
    assert on_gpu.reserved_bytes(1000 * MIB) == 0  # slots are allocated before the device's memory is measured
    assert on_gpu.warning(60 * MIB, 60 * MIB) is None


def test_no_more_than_half_of_what_is_free_is_set_aside() -> None:
    assert _USUAL.reserved_bytes(1000 * MIB) == _TOTAL
    assert _USUAL.reserved_bytes(60 * MIB) == 30 * MIB


@pytest.mark.parametrize(("kv_bytes", "is_told"), [(16 * MIB, False), (17 * MIB, True)])
def test_adapters_that_may_not_fit_are_told(kv_bytes: int, is_told: bool) -> None:
    warning = _USUAL.warning(60 * MIB, kv_bytes)
    assert (warning is not None) == is_told
    if warning is not None:
        assert warning == (
            "adapters may take 44.0 MiB, and beside the KV cache of 17.0 MiB 43.0 MiB are free; lower --max-lora-rank "
            "(64) to that of your adapters, --max-loras (8) or --max-cpu-loras (16)"
        )
