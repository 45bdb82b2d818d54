"""Decoders on the Triton column: the logits of torch's column, and the number of kernels that a layer launches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.architecture.attention import AttentionSpec, QKNormScope, QKNormSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.feed_forward import Activation, MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.architecture.norm import NormKind, NormSpec
from models.architecture.positions import RopeSpec
from models.attention.base import AttentionBackend
from models.attention.reference import ReferenceAttention
from models.attention.triton import TritonAttention
from models.compute import ComputeConfig
from models.decoder import Decoder
from models.kernels.ops import Operations
from models.kernels.triton import attend, norm, rope_write
from models.kernels.triton.launch import launching_with
from models.kernels.triton.operations import TritonOperations
from tests.helpers.gpu.interpreter import interpreting
from tests.helpers.paged import PagedRun, PagedSequence

CPU = torch.device("cpu")
_ = attend, norm, rope_write  # imported by the back end when it is used: kernels must not be defined while interpreted
HIDDEN, VOCAB = 64, 50
NORM = NormSpec(NormKind.RMS, 1e-5)
LLAMA = LayerSpec(
    mixer=AttentionSpec(4, 2, 16, 0.25),
    mlp=MLPSpec(96, Activation.SILU, is_gated=True),
    norm=NORM,
    rope=RopeSpec(16, 10_000.0),
)
HEAD_NORMS = dataclasses.replace(LLAMA, qk_norm=QKNormSpec(NORM, QKNormScope.HEAD))
LAYERS = {
    "llama": LLAMA,
    "norms of heads": HEAD_NORMS,
    "norms of projections": dataclasses.replace(
        LLAMA, qk_norm=QKNormSpec(NORM, QKNormScope.PROJECTION), placement=NormPlacement.POST
    ),
    "sandwich": dataclasses.replace(LLAMA, placement=NormPlacement.SANDWICH, skip_scale=0.9, has_output_gate=True),
    "after the sum": dataclasses.replace(
        LLAMA,
        norm=NormSpec(NormKind.LAYER, 1e-5, has_bias=True),
        placement=NormPlacement.AFTER_SUM,
        has_qkv_bias=True,
        has_out_bias=True,
    ),
}
MOST_LAUNCHES = {"llama": 11, "norms of heads": 11}
ATTENTION = 2  # launches of a decode step: splits, and their merge


class NoAttention(TritonAttention):
    """The back end without the kernels of attention, for counting the others."""

    def forward(self, q: torch.Tensor, *_args: Any, **_options: Any) -> torch.Tensor:
        return q


class Counted(TorchDispatchMode):
    """Counts the functions of torch that launch kernels on a GPU: those that neither view nor only allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not function.is_view and not function.name().startswith("aten::empty"):
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def decoder_of(layer: LayerSpec, ops: Operations, backend: AttentionBackend, dtype: torch.dtype) -> Decoder:
    spec = DecoderSpec(VOCAB, HIDDEN, 64, (layer,), final_norm=NORM, has_tied_head=True)
    decoder = Decoder(spec, ComputeConfig(backend, ops, dtype, dtype, CPU))
    decoder.allocate(CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1.0 + 0.2 * values if "norm" in name else values * parameter.shape[-1] ** -0.5)
    return decoder


@pytest.mark.parametrize("name", list(LAYERS))
def test_logits_equal_those_of_torch(name: str) -> None:
    columns = [(Operations(), ReferenceAttention()), (TritonOperations(CPU), TritonAttention(90))]
    logits = []
    for ops, backend in columns:
        run = PagedRun(decoder_of(LAYERS[name], ops, backend, torch.float32))
        sequence = PagedSequence()
        with interpreting():
            logits.append(torch.cat([run.step([(sequence, ids)])[0] for ids in ([5, 9], [7])]))

    torch.testing.assert_close(logits[1], logits[0], rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("name", list(MOST_LAUNCHES))
def test_layers_launch_few_kernels(name: str) -> None:
    run = PagedRun(decoder_of(LAYERS[name], TritonOperations(CPU), NoAttention(90), torch.bfloat16))
    counted = Counted()

    def note(kernel: Any, *_rest: Any) -> None:
        counted.names.append(kernel.__name__)

    with launching_with(note):
        layer = run.decoder.layers[0]
        layer.register_forward_pre_hook(lambda *_: counted.names.clear())
        layer.register_forward_hook(lambda *_: names.extend(counted.names))
        names: list[str] = []
        with counted:
            run.step([(PagedSequence(), [3])])

    assert len(names) + ATTENTION <= MOST_LAUNCHES[name], names
    assert len([each for each in names if not each.startswith("aten::")]) == 4, names
