"""Kinds of errors, by the messages of torch, CUDA and the system."""

import pytest

from models.errors import DeviceLostError, is_device_error, is_out_of_memory, raise_if_lost

pytestmark = pytest.mark.fast

SHORTAGES = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
    "CUDA error: out of memory",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "Triton Error [CUDA]: out of memory",
    "[enforce fail] DefaultCPUAllocator: can't allocate memory",
]
STICKY = [
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: misaligned address",
    "CUDA error: uncorrectable ECC error encountered",
    "Triton Error [CUDA]: an illegal memory access was encountered",
    "Triton Error [CUDA]: context is destroyed",
    "CUDA driver error: unknown error",
]
OTHERS = ["CUDA error: invalid configuration argument", "CUBLAS_STATUS_NOT_SUPPORTED when calling cublasGemmEx"]


@pytest.mark.parametrize("message", SHORTAGES)
def test_a_shortage_of_memory_is_no_failure_of_the_device(message: str) -> None:
    error = RuntimeError(message)
    assert is_out_of_memory(error)
    assert not is_device_error(error)
    raise_if_lost(error)


@pytest.mark.parametrize("message", STICKY)
def test_errors_that_cuda_repeats_for_ever_are_recognized(message: str) -> None:
    error = RuntimeError(message)
    assert is_device_error(error)
    with pytest.raises(DeviceLostError) as lost:
        raise_if_lost(error)
    assert "\n" not in str(lost.value)
    with pytest.raises(DeviceLostError):
        raise_if_lost(lost.value)


@pytest.mark.parametrize("message", OTHERS)
def test_other_errors_of_a_device_are_not_lost_by_their_message(message: str) -> None:
    assert is_device_error(RuntimeError(message))
    raise_if_lost(RuntimeError(message))


def test_errors_of_others_are_none_of_a_device() -> None:
    assert not is_device_error(RuntimeError("unknown error"))
    raise_if_lost(RuntimeError("unknown error"))
