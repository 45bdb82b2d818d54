"""Recording native calls and replaying them with other contents."""

import contextlib
import threading

import pytest
import torch

from models.kernels.cpu.library import KernelLibrary
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import PackedWeight, gather_rows, pack_weight
from models.kernels.cpu.tape import Workspace, record
from models.kernels.formats import WeightFormat
from models.kernels.row_input import InputKind, RowInput

WIDTH = 64


@pytest.fixture
def weight(kernels: KernelLibrary) -> PackedWeight:
    matrix = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    return pack_weight(WeightFormat.BF16, matrix, WIDTH, WIDTH, library=kernels)


@pytest.fixture
def linear(weight: PackedWeight, kernels: KernelLibrary) -> PackedLinear:
    return PackedLinear([weight], [torch.ones(WIDTH)], library=kernels)


def rows(seed: int, count: int = 3) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_replay_computes_what_the_calls_would(linear: PackedLinear, kernels: KernelLibrary) -> None:
    norm = RowInput(InputKind.RMS_NORM, torch.rand(WIDTH), eps=0.125)

    def run(x: torch.Tensor) -> torch.Tensor:
        """Two layers with a strided view between, a norm and a residual; the result takes x's place."""
        first = linear(x, prepare=norm, out=x.new_empty(x.shape))
        return linear(first.view(-1, 2, WIDTH // 2).flatten(1), residual=x, out=x)

    x = rows(1)
    tape, _ = record(lambda: run(x), Workspace(), kernels.replay)

    assert tape is not None
    assert torch.equal(x, run(rows(1)))  # recording computes too
    for seed in (2, 3):
        x.copy_(rows(seed))
        tape.replay()
        assert torch.equal(x, run(rows(seed)))


def test_calls_can_be_replayed_one_by_one(linear: PackedLinear, kernels: KernelLibrary) -> None:
    x = rows(1)
    tape, _ = record(lambda: linear(linear(x), out=x), Workspace(), kernels.replay)
    assert tape is not None
    x.copy_(rows(2))
    expected = linear(linear(x))
    names = []

    def note(name: str) -> contextlib.nullcontext[None]:
        names.append(name)
        return contextlib.nullcontext()

    tape.replay_each(note)
    assert names == ["hr_bf16_linear"] * 2
    assert torch.equal(x, expected)


def test_tapes_that_share_a_workspace_run_in_turn(linear: PackedLinear, kernels: KernelLibrary) -> None:
    workspace = Workspace()
    inputs = [rows(1, count=3), rows(1, count=5), rows(1, count=3)]
    tapes = [record(lambda x=x: linear(linear(x), out=x), workspace, kernels.replay).tape for x in inputs]

    for x, tape in zip(inputs, tapes, strict=True):
        assert tape is not None
        x.copy_(rows(7, count=len(x)))
        expected = linear(linear(x))
        tape.replay()
        assert torch.equal(x, expected)


@pytest.mark.parametrize("op", ["aten.add.Tensor", "aten.mul_.Tensor", "aten.clone.default", "hr_packed_bytes"])
def test_run_that_computes_by_other_means_gives_no_tape(op: str, linear: PackedLinear, kernels: KernelLibrary) -> None:
    x = rows(1)
    runs = {
        "aten.add.Tensor": lambda: linear((x + 1).mul_(2)),
        "aten.mul_.Tensor": lambda: linear(x.mul_(2)),
        "aten.clone.default": lambda: linear(x.t().contiguous().t().contiguous()),
        "hr_packed_bytes": lambda: kernels.packed_bytes(0, WIDTH, WIDTH),  # a kernel without a replay
    }

    assert record(runs[op], Workspace(), kernels.replay) == (None, op)
    assert record(lambda: linear(x, out=x), Workspace(), kernels.replay).tape  # the next one can be recorded


def test_calls_of_other_threads_run_and_are_not_recorded(
    linear: PackedLinear, weight: PackedWeight, kernels: KernelLibrary
) -> None:
    """As of a thread that reads an adapter, whose memory is free long before a replay."""
    x, found = rows(1), []

    def read() -> None:
        found.append(gather_rows(weight, torch.arange(2), torch.bfloat16, library=kernels))
        kernels.packed_bytes(0, WIDTH, WIDTH)  # which cannot be recorded

    def run() -> None:
        reader = threading.Thread(target=read)
        reader.start()
        reader.join()
        linear(x, out=x)

    tape, unrecordable_op = record(run, Workspace(), kernels.replay)

    assert unrecordable_op is None
    assert tape is not None
    names = []

    def note(name: str) -> contextlib.nullcontext[None]:
        names.append(name)
        return contextlib.nullcontext()

    tape.replay_each(note)
    assert names == ["hr_bf16_linear"]
    assert torch.equal(found[0], gather_rows(weight, torch.arange(2), torch.bfloat16, library=kernels))


def test_failure_while_recording_leaves_no_recorder_behind(linear: PackedLinear, kernels: KernelLibrary) -> None:
    x = rows(1)

    with pytest.raises(ZeroDivisionError):
        record(lambda: 1 // 0, Workspace(), kernels.replay)

    assert record(lambda: linear(x, out=x), Workspace(), kernels.replay).tape is not None


def test_workspace_hands_out_only_what_nobody_uses() -> None:
    workspace = Workspace()
    first = workspace.empty((4, 8), torch.float32)
    address, view = first.data_ptr(), first[1:]
    del first

    second = workspace.empty((8, 8), torch.bfloat16)  # as many bytes, which the view still uses
    assert second.data_ptr() != address
    del view
    assert workspace.empty((4, 8), torch.float32).data_ptr() == address
