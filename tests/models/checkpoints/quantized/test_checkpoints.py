"""Quantized checkpoints that the formats' own libraries wrote, compared with those libraries' dequantized values."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from models.attention.reference import ReferenceAttention
from models.checkpoints.base import Checkpoint, StoredTensor
from models.errors import CheckpointError
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import open_model
from models.quant.tensor import ActivationQuantization, Encoding
from models.sources.resolve import ModelFiles
from tests.helpers.checkpoints import cpu_compute, random_model
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.quantized import (
    KINDS,
    QUANTIZED,
    change_quantization,
    change_tensors,
    copy_of,
    expected_of,
    open_quantized,
)
from tests.models.families.variants import gpt_oss

LLAMAS = [kind for kind in KINDS if not kind.startswith("mxfp4-experts")]
Q, K, DOWN = (f"model.layers.0.{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))


def quantized(kind: str, name: str = Q) -> StoredTensor:
    tensor = open_quantized(QUANTIZED / kind).tensors[name]
    assert tensor.quantized is not None
    return tensor


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_library(kind: str) -> None:
    expected, _, _ = expected_of(kind)
    tensors = open_quantized(QUANTIZED / kind).tensors

    assert len(expected) == 4
    for name, values in expected.items():
        read = tensors[name].read
        assert read is not None
        if kind == "bnb-int8":  # the library multiplies twice in fp32, code by maximum by 1 / 127
            torch.testing.assert_close(read(values.dtype), values, rtol=2**-22, atol=0)
        else:
            assert torch.equal(read(values.dtype), values), name


@pytest.mark.parametrize("kind", LLAMAS)
def test_logits_are_those_of_the_dequantized_model(kind: str) -> None:
    expected, ids, logits = expected_of(kind)
    checkpoint = open_quantized(QUANTIZED / kind)
    library_dtype = expected[Q].dtype
    checkpoint.tensors = {name: rounded(tensor, library_dtype) for name, tensor in checkpoint.tensors.items()}

    found = logits_of(QUANTIZED / kind, checkpoint, ids[0].tolist())

    assert logits.std() > 0.5
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-4)


# Relative errors of the logits; what is wrong in a format gives 1. Rounding rows to FP8's 3 bits costs most.
BOUNDS = {
    ActivationQuantization.NONE: (0.008, 0.03),
    Encoding.INT8: (0.03, 0.03),
    Encoding.TERNARY: (0.03, 0.03),
    Encoding.FP8_E4M3: (0.12, 0.12),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", LLAMAS)
def test_logits_of_weights_as_they_are_stored_are_near_the_dequantized_models(kind: str, dtype: torch.dtype) -> None:
    _, ids, logits = expected_of(kind)
    checkpoint = open_quantized(QUANTIZED / kind)

    found = logits_of(QUANTIZED / kind, checkpoint, ids[0].tolist(), dtype)

    of = checkpoint.tensors[Q].quantized.kind
    bounds = BOUNDS.get(of.activation) or BOUNDS[of.encoding]
    assert float((found - logits).norm() / logits.norm()) < bounds[dtype is torch.bfloat16]


def logits_of(folder: Path, checkpoint: Checkpoint, ids: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[len(ids), V] in fp32."""
    opened = replace(open_model(ModelFiles(folder, (), "m")), checkpoint=checkpoint)
    backend = ReferenceAttention()
    compute = cpu_compute(dtype, backend)
    decoder, _ = build_decoder(opened, compute, WeightOptions(), lambda *_: None)
    [logits] = PagedRun(decoder).step([(PagedSequence(), ids)])
    return logits


def rounded(tensor: StoredTensor, dtype: torch.dtype) -> StoredTensor:
    """The tensor as the library reads it: rounded to `dtype`, dequantized."""
    read = tensor.read
    return replace(tensor, read=lambda target: read(dtype).to(target), quantized=None)


@pytest.mark.parametrize("kind", KINDS)
def test_kind_is_known_before_the_matrix_is_read(kind: str) -> None:
    for tensor in open_quantized(QUANTIZED / kind).tensors.values():
        if tensor.quantized is not None:
            matrix = tensor.quantized.read()
            assert matrix.kind == tensor.quantized.kind
            assert matrix.shape[1] == tensor.shape[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_matrix_takes_the_bytes_of_the_file(kind: str) -> None:
    for tensor in open_quantized(QUANTIZED / kind).tensors.values():
        if tensor.quantized is not None:
            matrix = tensor.quantized.read()
            in_memory = (
                matrix.codes.nbytes + matrix.scales.nbytes + (0 if matrix.zeros is None else matrix.zeros.nbytes)
            )
            assert in_memory <= tensor.num_bytes * 1.15


ENCODINGS = {
    "awq": Encoding.INT4,
    "bitnet": Encoding.TERNARY,
    "bnb-fp4": Encoding.FP4,
    "bnb-int8": Encoding.INT8,
    "bnb-nf4": Encoding.NF4,
    "ct-fp8": Encoding.FP8_E4M3,
    "ct-int4": Encoding.INT4,
    "ct-int8": Encoding.INT8,
    "ct-mxfp4": Encoding.E2M1,
    "ct-mxfp8": Encoding.FP8_E4M3,
    "ct-nvfp4": Encoding.E2M1,
    "ct-w8a8": Encoding.INT8,
    "fp8": Encoding.FP8_E4M3,
    "gptq-int4": Encoding.INT4,
    "gptq-int8": Encoding.INT8,
    "modelopt-mxfp8": Encoding.FP8_E4M3,
    "modelopt-nvfp4": Encoding.E2M1,
    "mxfp4": Encoding.E2M1,
    "mxfp8": Encoding.FP8_E4M3,
}


@pytest.mark.parametrize("kind", KINDS)
def test_codes_stay_in_the_format_of_the_file(kind: str) -> None:
    encoding = next(value for start, value in ENCODINGS.items() if kind.startswith(start))

    found = {
        tensor.quantized.kind.encoding
        for tensor in open_quantized(QUANTIZED / kind).tensors.values()
        if tensor.quantized
    }

    assert found == {encoding}


@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        ("ct-fp8-static", ActivationQuantization.STATIC),
        ("ct-fp8-dynamic", ActivationQuantization.DYNAMIC_PER_TOKEN),
        ("ct-fp8-block", ActivationQuantization.DYNAMIC_PER_GROUP),
        ("ct-int8", ActivationQuantization.DYNAMIC_PER_TOKEN),
        ("ct-int8-weights", ActivationQuantization.NONE),
        ("ct-int4-g128", ActivationQuantization.NONE),
        ("ct-fp8-written", ActivationQuantization.NONE),
        ("ct-int8-written", ActivationQuantization.NONE),
        ("ct-nvfp4", ActivationQuantization.NONE),  # rows in 4 bits are for GPUs that multiply in them
        ("ct-mxfp8", ActivationQuantization.NONE),
        ("mxfp8", ActivationQuantization.NONE),
        ("ct-w8a8-written", ActivationQuantization.DYNAMIC_PER_TOKEN),
        ("bitnet", ActivationQuantization.DYNAMIC_PER_TOKEN),
        ("fp8-block", ActivationQuantization.DYNAMIC_PER_GROUP),
        ("fp8-tensor-static", ActivationQuantization.STATIC),
        ("gptq-int4-g32", ActivationQuantization.NONE),
        ("awq-g32", ActivationQuantization.NONE),
    ],
)
def test_activations_are_quantized_as_the_checkpoint_asks(kind: str, activation: ActivationQuantization) -> None:
    matrix = quantized(kind).quantized.read()

    assert matrix.activation is activation
    assert (matrix.input_scale is not None) == (activation is ActivationQuantization.STATIC)


@pytest.mark.parametrize(
    ("kind", "is_permuted"),
    [("gptq-int4-g32", False), ("gptq-int4-g32-actorder", True), ("ct-int4-g32-actorder", True)],
)
def test_act_order_is_a_permutation_sorted_by_group(kind: str, is_permuted: bool) -> None:
    permutation = quantized(kind, DOWN).quantized.read().permutation

    assert (permutation is not None) == is_permuted
    if permutation is not None:
        assert sorted(permutation.tolist()) == list(range(128))
        groups = permutation.view(-1, 32)
        assert torch.equal(groups, groups.sort(dim=1).values)


def test_block_at_the_edge_may_be_short() -> None:
    matrix = quantized("ct-fp8-block", K).quantized.read()

    assert matrix.shape == (32, 64)
    assert matrix.scales.shape == (1, 1)


def test_layers_that_the_quantizer_left_out_are_plain() -> None:
    tensors = open_quantized(QUANTIZED / "ct-fp8-dynamic").tensors

    left_out = tensors["model.layers.1.self_attn.q_proj.weight"]
    assert left_out.quantized is None
    assert left_out.format == "BF16"
    assert tensors["model.layers.0.self_attn.q_proj.weight"].quantized is not None
    assert "lm_head.weight" not in tensors  # tied


@pytest.mark.parametrize("has_biases", [False, True])
def test_biases_of_zeros_are_left_over_only_where_the_model_has_none(tmp_path: Path, has_biases: bool) -> None:
    folder = copy_of("gptq-int4-g32", tmp_path)
    sizes = {"q_proj": 64, "k_proj": 32, "v_proj": 32, "o_proj": 64}
    biases = {f"model.layers.{i}.self_attn.{name}.bias": torch.zeros(n) for name, n in sizes.items() for i in (0, 1)}
    change_tensors(folder, biases)  # as AutoGPTQ adds them
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "attention_bias": has_biases}))

    found = logits_of(folder, open_quantized(folder), [1, 2, 3])

    assert torch.equal(
        found, logits_of(QUANTIZED / "gptq-int4-g32", open_quantized(QUANTIZED / "gptq-int4-g32"), [1, 2, 3])
    )


def test_bias_that_is_not_zero_is_not_left_over(tmp_path: Path) -> None:
    folder = copy_of("gptq-int4-g32", tmp_path)
    change_tensors(folder, {"model.layers.0.self_attn.k_proj.bias": torch.ones(32)})

    with pytest.raises(CheckpointError, match=r"k_proj\.bias' is not used"):
        logits_of(folder, open_quantized(folder), [1, 2, 3])


@pytest.mark.parametrize("name", ["self_attn.k_scale", "self_attn.v_proj.v_scale"])
def test_scales_of_an_8_bit_kv_cache_are_ignored(tmp_path: Path, name: str) -> None:
    folder = copy_of("ct-fp8-static", tmp_path)
    scale = f"model.layers.0.{name}"
    change_tensors(folder, {scale: torch.ones(1)})

    assert scale not in open_quantized(folder).tensors


@torch.no_grad()
def test_gpt_oss_with_experts_in_mxfp4_is_read(tmp_path: Path) -> None:
    model = random_model(gpt_oss(intermediate_size=64))
    model.save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(9)
    changes: dict[str, torch.Tensor | None] = {}
    for name, parameter in model.named_parameters():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, columns, rows = parameter.shape
            groups = (experts, rows, columns // 32)
            blocks = torch.randint(0, 256, (*groups, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(121, 124, groups, generator=generator, dtype=torch.uint8)
            parameter.copy_(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32))
            changes |= {name: None, f"{name}_blocks": blocks, f"{name}_scales": scales}
    change_tensors(tmp_path, changes)
    change_quantization(tmp_path, quant_method="mxfp4")
    ids = [1, 17, 42, 5, 63, 8, 29, 33]

    found = logits_of(tmp_path, open_quantized(tmp_path), ids)

    torch.testing.assert_close(found, model(torch.tensor([ids])).logits[0], rtol=0, atol=1e-4)


def test_part_of_a_stack_is_an_expert() -> None:
    stack = quantized("mxfp4-experts", "model.layers.1.mlp.experts.down_proj.weight")

    expert = stack.part(2)

    assert stack.shape == (4, 48, 64)
    assert (expert.shape, expert.num_bytes) == ((48, 64), stack.num_bytes // 4)
    assert expert.quantized.read().shape == expert.shape
    assert torch.equal(expert.read(torch.float32), stack.read(torch.float32)[2])
