"""A GPU with the rules of one, but without memory: torch's fake tensors on the device "gpu".

Tensors have shapes, dtypes and devices, and no numbers. So whatever needs numbers on the host is an error, and so is an
operator over tensors of several devices.
"""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from models.kernels.triton.launch import Grid, Kernel, launching_with
from models.layers.attention.attention import Attention

aten = torch.ops.aten
# Operators whose result has a size, or is a number, that depends on numbers: the host waits for the device.
_WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.bincount,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
}


class Synchronization(AssertionError):
    """The host would wait for the device, or copies to or from it, between the launches of a step."""


class _DeviceModule(_DummyBackendModule):
    """`torch.gpu`: it stays for the process, and torch saves and restores the random state of every device."""

    def get_rng_state(self, device: object = 0) -> torch.Tensor:  # noqa: ARG002
        return torch.empty(0, dtype=torch.uint8, device="cpu")

    def set_rng_state(self, state: torch.Tensor, device: object = 0) -> None:
        pass


@functools.cache
def _gpu() -> torch.device:
    _setup_privateuseone_for_python_backend("gpu", _DeviceModule())
    return torch.device("gpu")


class FakeGPU:
    """The device "gpu" while `fake_gpu` runs."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self.device = _gpu()
        self._mode = mode

    def copy(self, value: Any) -> Any:
        """Copy tensors of the host, in tuples and dataclasses too, to the device."""
        if isinstance(value, torch.Tensor):
            return self._mode.from_tensor(value).to(self.device)
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(map(self.copy, value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {each.name: self.copy(getattr(value, each.name)) for each in dataclasses.fields(value)}
            return dataclasses.replace(value, **fields)
        return value


@contextmanager
def fake_gpu() -> Iterator[FakeGPU]:
    """Create fake tensors inside the context, on the GPU or on the CPU. Triton kernels compute nothing, and take no
    tensor of the host."""
    with FakeTensorMode() as mode, _HostLists(), launching_with(_check):
        yield FakeGPU(mode)


def allocate_fake(module: nn.Module, device: torch.device) -> None:
    """Allocate as `models.decoder.allocate_module`; torch cannot put a fake tensor into a parameter that it has."""
    for inner in module.modules():
        for name, parameter in inner.named_parameters(recurse=False):
            fake = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(inner, name, nn.Parameter(fake, requires_grad=False))
        if isinstance(inner, Attention):
            inner.make_constants(device)


class _HostLists(TorchFunctionMode):
    """A context in which `torch.tensor` makes a tensor on the host first, so that its copy is seen as one."""

    def __torch_function__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.tensor or "device" not in kwargs:
            return func(*args, **kwargs)
        device = kwargs.pop("device")
        return func(*args, **kwargs).to(device)


class NoSynchronization(TorchDispatchMode):
    """A context in which every operator must leave the host free. Raises Synchronization.

    Host copies count too: a step's numbers come in one copy, before its layers run.
    """

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_aten = func.namespace == "aten"
        if is_aten and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # torch.inference_mode leaves it whole
                return func.decompose(*args, **kwargs)
        if waits_for_device(func, args, kwargs):
            raise Synchronization(f"{func} waits for the device")
        result = func(*args, **kwargs)
        devices = {tensor.device.type for tensor in _tensors((args, kwargs, result)) if not _is_number(tensor)}
        if len(devices) > 1:
            raise Synchronization(f"{func} copies between {' and '.join(sorted(devices))}")
        return result


def waits_for_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator of torch makes the host wait for numbers of the device."""
    if func.overloadpacket in _WAITING:
        return True
    if func.overloadpacket is aten.index:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None


def _is_number(tensor: torch.Tensor) -> bool:
    """Whether a kernel gets the tensor as an argument by value: the host's scalars."""
    return tensor.dim() == 0 and tensor.device.type == "cpu"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _check(kernel: Kernel, grid: Grid, args: tuple[Any, ...], meta: dict[str, Any]) -> None:
    assert all(type(size) is int for size in grid), f"{kernel} has the grid {grid}: not numbers of the host"
    for tensor in _tensors((args, meta)):
        assert tensor.device.type == _gpu().type, f"{kernel} gets a tensor on {tensor.device}"
