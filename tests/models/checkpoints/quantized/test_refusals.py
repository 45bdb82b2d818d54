"""Quantized checkpoints that are incomplete, malformed, hostile or unknown: one error that names the cause."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models.errors import CheckpointError, UnsupportedModelError
from tests.helpers.quantized import KINDS, QUANTIZED, change_quantization, change_tensors, copy_of, open_quantized

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.0.mlp.down_proj"
EXPERTS = "model.layers.0.mlp.experts.down_proj"

Changes = dict[str, torch.Tensor | None]


def i32(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def u8(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


def state(**fields: object) -> torch.Tensor:
    sound = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 64]}
    return torch.tensor(list(json.dumps({**sound, **fields}).encode()), dtype=torch.uint8)


NF4_STATE = f"{Q}.weight.quant_state.bitsandbytes__nf4"

# fixture, tensors to change, what the message says. Found from the header alone, before anything is read.
MISSHAPEN: dict[str, tuple[str, Changes, str]] = {
    "gptq without scales": ("gptq-int4-g32", {f"{Q}.scales": None}, r"lacks tensor '.*q_proj\.scales'"),
    "gptq without zeros": ("gptq-int4-g32", {f"{Q}.qzeros": None}, r"lacks tensor '.*q_proj\.qzeros'"),
    "gptq without g_idx": ("gptq-int4-g32-actorder", {f"{Q}.g_idx": None}, r"lacks tensor '.*q_proj\.g_idx'"),
    "gptq codes of another dtype": ("gptq-int4-g32", {f"{Q}.qweight": torch.zeros(8, 64)}, "stored as F32.*I32"),
    "gptq codes in one dimension": ("gptq-int4-g32", {f"{Q}.qweight": i32(512)}, "must be a matrix"),
    "gptq codes of size 0": ("gptq-int4-g32", {f"{Q}.qweight": i32(0, 64)}, "must be a matrix"),
    "gptq codes of another shape": (
        "gptq-int4-g32",
        {f"{Q}.qweight": i32(16, 64)},
        r"scales' has shape \[2, 64\].*\[4, 64\]",
    ),
    "gptq columns not in groups": (
        "gptq-int4-g32",
        {f"{Q}.qweight": i32(9, 64)},
        "group_size 32 does not divide the 72",
    ),
    "gptq rows not in words": ("gptq-int4-g32", {f"{Q}.qweight": i32(8, 63)}, "do not fill words"),
    "gptq scales of another shape": (
        "gptq-int4-g32",
        {f"{Q}.scales": torch.ones(2, 63).half()},
        r"\[2, 63\].*\[2, 64\]",
    ),
    "gptq scales of another dtype": ("gptq-int4-g32", {f"{Q}.scales": i32(2, 64)}, "stored as I32; it must be BF16"),
    "gptq zeros of another shape": ("gptq-int4-g32", {f"{Q}.qzeros": i32(2, 7)}, r"\[2, 7\].*\[2, 8\]"),
    "gptq g_idx too short": ("gptq-int4-g32", {f"{Q}.g_idx": i32(63)}, r"g_idx' has shape \[63\].*\[64\]"),
    "awq without scales": ("awq-g32", {f"{Q}.scales": None}, r"lacks tensor '.*scales'"),
    "awq without zeros": ("awq-g32", {f"{Q}.qzeros": None}, r"lacks tensor '.*qzeros'"),
    "awq columns not in groups": ("awq-g32", {f"{Q}.qweight": i32(63, 8)}, "group_size 32 does not divide the 63"),
    "awq scales of another shape": ("awq-g32", {f"{Q}.scales": torch.ones(2, 8).half()}, r"\[2, 8\].*\[2, 64\]"),
    "ct without scales": ("ct-int4-g128", {f"{Q}.weight_scale": None}, r"lacks tensor '.*weight_scale'"),
    "ct without shape": ("ct-int4-g128", {f"{Q}.weight_shape": None}, r"lacks tensor '.*weight_shape'"),
    "ct without zeros": ("ct-int4-g32-asym", {f"{Q}.weight_zero_point": None}, r"lacks tensor '.*zero_point'"),
    "ct shape of other codes": ("ct-int4-g128", {f"{Q}.weight_shape": torch.tensor([128, 256])}, "does not pack to"),
    "ct shape that is huge": ("ct-int4-g128", {f"{Q}.weight_shape": torch.tensor([2**60, 2**60])}, "does not pack to"),
    "ct shape that is negative": ("ct-int4-g128", {f"{Q}.weight_shape": torch.tensor([128, -128])}, "does not pack to"),
    "ct shape in three dimensions": ("ct-int4-g128", {f"{Q}.weight_shape": torch.ones(3).long()}, r"\[3\].*\[2\]"),
    "ct scales of another shape": ("ct-int8", {f"{Q}.weight_scale": torch.ones(63, 1)}, r"\[63, 1\].*\[64, 1\]"),
    "ct without input_scale": ("ct-fp8-static", {f"{Q}.input_scale": None}, r"lacks tensor '.*input_scale'"),
    "ct input_scale for each row": (
        "ct-fp8-static",
        {f"{Q}.input_scale": torch.ones(64)},
        r"input_scale' has shape \[64\]",
    ),
    "ct codes of another dtype": (
        "ct-int8",
        {f"{Q}.weight": torch.zeros(64, 64).to(torch.float8_e4m3fn)},
        "stored as F8",
    ),
    "ct codes in one dimension": ("ct-int8", {f"{Q}.weight": torch.zeros(64, dtype=torch.int8)}, "must be a matrix"),
    "ct mxfp4 scales of another shape": ("ct-mxfp4", {f"{Q}.weight_scale": u8(64, 3)}, r"\[64, 3\].*\[64, 2\]"),
    "ct nvfp4 scales of another shape": (
        "ct-nvfp4",
        {f"{Q}.weight_scale": torch.ones(64, 2).to(torch.float8_e4m3fn)},
        r"\[64, 2\].*\[64, 4\]",
    ),
    "ct nvfp4 without its second scale": (
        "ct-nvfp4",
        {f"{Q}.weight_global_scale": None},
        "lacks tensor .*global_scale",
    ),
    "ct nvfp4 with second scales by row": (
        "ct-nvfp4",
        {f"{Q}.weight_global_scale": torch.ones(64)},
        r"global_scale' has shape \[64\]",
    ),
    "modelopt nvfp4 without its second scale": (
        "modelopt-nvfp4",
        {f"{Q}.weight_scale_2": None},
        "lacks tensor .*weight_scale_2",
    ),
    "modelopt nvfp4 scales of another type": (
        "modelopt-nvfp4",
        {f"{Q}.weight_scale": u8(64, 4)},
        "stored as U8; it must be F8_E4M3",
    ),
    "modelopt nvfp4 columns not in groups": (
        "modelopt-nvfp4",
        {f"{Q}.weight": u8(64, 36)},
        "16 does not divide the 72",
    ),
    "bitnet without its scale": ("bitnet", {f"{Q}.weight_scale": None}, r"lacks tensor '.*weight_scale'"),
    "bitnet with a scale a row": ("bitnet", {f"{Q}.weight_scale": torch.ones(64)}, r"weight_scale' has shape \[64\]"),
    "bitnet codes in one dimension": ("bitnet", {f"{Q}.weight": u8(1024)}, "must be a matrix"),
    "bitnet columns that fill no byte": ("bitnet", {f"{Q}.weight": u8(16, 63)}, "63 columns; they must be a multiple"),
    "ct mxfp8 scales of another shape": ("ct-mxfp8", {f"{Q}.weight_scale": u8(64, 3)}, r"\[64, 3\].*\[64, 2\]"),
    "ct mxfp8 scales of another type": (
        "ct-mxfp8",
        {f"{Q}.weight_scale": torch.ones(64, 2)},
        "stored as F32; it must be U8 or F8_E8M0",
    ),
    "modelopt mxfp8 without scales": ("modelopt-mxfp8", {f"{Q}.weight_scale": None}, "lacks tensor .*weight_scale"),
    "modelopt mxfp8 columns not in groups": (
        "modelopt-mxfp8",
        {f"{Q}.weight": torch.zeros(64, 40).to(torch.float8_e4m3fn)},
        "group size 32 does not divide the 40",
    ),
    "mxfp8 scales of another grid": ("mxfp8", {f"{Q}.weight_scale_inv": u8(2, 1)}, r"\[2, 1\].*\[64, 2\]"),
    "fp8 without scales": ("fp8-block", {f"{Q}.weight_scale_inv": None}, r"lacks tensor '.*weight_scale_inv'"),
    "fp8 scales of another grid": ("fp8-block", {f"{Q}.weight_scale_inv": torch.ones(2, 1)}, r"\[2, 1\].*\[1, 1\]"),
    "fp8 without activation_scale": ("fp8-tensor-static", {f"{Q}.activation_scale": None}, "lacks tensor"),
    "nf4 without state": ("bnb-nf4", {NF4_STATE: None}, "stored as U8; it must be I8"),
    "nf4 without absmax": ("bnb-nf4", {f"{Q}.weight.absmax": None}, r"lacks tensor '.*absmax'"),
    "nf4 without table": ("bnb-nf4", {f"{Q}.weight.quant_map": None}, r"lacks tensor '.*quant_map'"),
    "nf4 without nested table": ("bnb-nf4-double", {f"{Q}.weight.nested_quant_map": None}, "lacks tensor"),
    "nf4 nested absmax of another length": (
        "bnb-nf4-double",
        {f"{Q}.weight.nested_absmax": torch.ones(9)},
        r"\[9\].*\[1\]",
    ),
    "nf4 absmax of another length": (
        "bnb-nf4",
        {f"{Q}.weight.absmax": torch.ones(63)},
        r"absmax' has shape \[63\].*\[64\]",
    ),
    "nf4 codes too short": ("bnb-nf4", {f"{Q}.weight": u8(2047, 1)}, r"\[2047, 1\].*\[2048, 1\]"),
    "nf4 state that is not JSON": ("bnb-nf4", {NF4_STATE: u8(9)}, "holds no JSON"),
    "nf4 state that is a list": (
        "bnb-nf4",
        {NF4_STATE: torch.tensor(list(b"[]"), dtype=torch.uint8)},
        "does not describe",
    ),
    "nf4 state that nests deeply": (
        "bnb-nf4",
        {NF4_STATE: torch.full((4000,), ord("["), dtype=torch.uint8)},
        "holds no JSON",
    ),
    "nf4 state that is long": ("bnb-nf4", {NF4_STATE: u8(5000)}, "JSON text of a few bytes"),
    "nf4 state of a huge shape": ("bnb-nf4", {NF4_STATE: state(shape=[2**60, 64])}, "rows is"),
    "nf4 state of another shape": (
        "bnb-nf4",
        {NF4_STATE: state(shape=[2**20, 2**10])},
        r"weight' has shape \[2048, 1\]",
    ),
    "nf4 state of a bool": ("bnb-nf4", {NF4_STATE: state(blocksize=True)}, "blocksize is True"),
    "nf4 blocks that straddle rows": (
        "bnb-nf4",
        {NF4_STATE: state(blocksize=128)},
        "blocksize 128 does not divide the 64",
    ),
    "nf4 state of another type": ("bnb-nf4", {NF4_STATE: state(quant_type="fp4")}, "does not describe"),
    "int8 without scales": ("bnb-int8", {f"{Q}.SCB": None}, r"lacks tensor '.*SCB'"),
    "int8 scales of another length": ("bnb-int8", {f"{Q}.SCB": torch.ones(63)}, r"SCB' has shape \[63\].*\[64\]"),
    "mxfp4 without scales": ("mxfp4-experts", {f"{EXPERTS}_scales": None}, r"lacks tensor '.*_scales'"),
    "mxfp4 blocks of another size": (
        "mxfp4-experts",
        {f"{EXPERTS}_blocks": u8(4, 48, 2, 8)},
        r"\[experts, rows, groups, 16\]",
    ),
    "mxfp4 scales of another shape": (
        "mxfp4-experts",
        {f"{EXPERTS}_scales": u8(4, 48, 3)},
        r"\[4, 48, 3\].*\[4, 48, 2\]",
    ),
}

# Shapes are right and contents are not: found when the matrix is read, and nothing of it is used.
CORRUPT: dict[str, tuple[str, str, Changes, str]] = {
    "g_idx beyond the groups": ("gptq-int4-g32", Q, {f"{Q}.g_idx": i32(64) + 2}, "names groups 2 to 2; there are 2"),
    "g_idx that is negative": ("gptq-int4-g32", Q, {f"{Q}.g_idx": i32(64) - 1}, "names groups -1 to -1"),
    "g_idx of uneven groups": ("gptq-int4-g32", Q, {f"{Q}.g_idx": i32(64)}, "groups of 0 to 64 columns"),
    "ct g_idx beyond the groups": (
        "ct-int4-g32-actorder",
        Q,
        {f"{Q}.weight_g_idx": i32(64) + 9},
        "names groups 9 to 9",
    ),
    "zeros in a symmetric checkpoint": ("gptq-int4-g32", Q, {f"{Q}.qzeros": i32(2, 8)}, "says sym"),
    "scales that are NaN": ("awq-g32", Q, {f"{Q}.scales": torch.full((2, 64), float("nan")).half()}, "not finite"),
    "scales that are infinite": ("fp8-block", Q, {f"{Q}.weight_scale_inv": torch.ones(1, 1) / 0}, "not finite"),
    "E8M0 scales that are NaN": ("mxfp4-experts", EXPERTS, {f"{EXPERTS}_scales": u8(4, 48, 2) + 255}, "not finite"),
    "codes that are NaN": (
        "fp8-block",
        Q,
        {f"{Q}.weight": torch.full((64, 64), 0xFF, dtype=torch.uint8).view(torch.float8_e4m3fn)},
        r"q_proj\.weight' has codes that are NaN",
    ),
    "ct codes that are NaN": (
        "ct-fp8-dynamic",
        Q,
        {f"{Q}.weight": torch.full((64, 64), 0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn)},
        r"q_proj\.weight' has codes that are NaN",
    ),
    "codes that are not ternary": ("bitnet", Q, {f"{Q}.weight": u8(16, 64) + 0x1C}, "not -1, 0 or 1"),
    "a ternary matrix's scale of 0": ("bitnet", Q, {f"{Q}.weight_scale": torch.zeros(1)}, "must be above 0"),
    "input_scale of 0": ("ct-fp8-static", Q, {f"{Q}.input_scale": torch.zeros(1)}, "must be above 0"),
    "table of another type": ("bnb-nf4", Q, {f"{Q}.weight.quant_map": torch.ones(16)}, "not the table of nf4"),
    "layout of a GPU": ("bnb-int8", Q, {f"{Q}.weight_format": torch.tensor(2, dtype=torch.uint8)}, "row layout"),
}

# fixture, fields of quantization_config, what the message says.
UNSUPPORTED: dict[str, tuple[str, dict[str, object], str]] = {
    "unknown method": (
        "awq-g32",
        {"quant_method": "aqlm"},
        "'aqlm'.*awq, bitnet, bitsandbytes, compressed-tensors, fp8, gptq, modelopt, mxfp4, mxfp8",
    ),
    "no method": ("awq-g32", {"quant_method": None}, "has no quant_method.*must be one of awq"),
    "gptq with 3 bits": ("gptq-int4-g32", {"bits": 3}, "3 bits.*4 or 8"),
    "gptq in marlin's layout": ("gptq-int4-g32", {"checkpoint_format": "marlin"}, "'marlin'.*gptq or gptq_v2"),
    "gptq in marlin's layout, as AutoGPTQ said it": ("gptq-int4-g32", {"is_marlin_format": True}, "'marlin'"),
    "modelopt in another format": ("fp8-block", {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "'W4A8_AWQ'"),
    "modelopt without a format": ("fp8-block", {"quant_method": "modelopt"}, "quant_algo ''"),
    "gptq with settings by module": ("gptq-int4-g32", {"dynamic": {"+:.*q_proj": {"bits": 8}}}, "q_proj"),
    "awq in gemv's layout": ("awq-g32", {"version": "gemv"}, "'gemv'.*'gemm'"),
    "awq with 8 bits": ("awq-g32", {"bits": 8}, "8 bits"),
    "fp8 with unknown activations": ("fp8-block", {"activation_scheme": "sometimes"}, "'sometimes'"),
    "fp8 with experts in fp4": ("fp8-block", {"expert_dtype": "fp4"}, "'fp4'"),
    "bitnet with norms of its own": ("bitnet", {"use_rms_norm": True}, "use_rms_norm True"),
    "bitnet of another class": ("bitnet", {"linear_class": "tritlinear"}, "'tritlinear'"),
    "mxfp8 in other blocks": ("mxfp8", {"weight_block_size": [1, 64]}, r"blocks of \(1, 64\)"),
    "mxfp8 with static activations": ("mxfp8", {"activation_scheme": "static"}, "'static'"),
    "fp8 in e5m2": ("fp8-block", {"fmt": "e5m2"}, "e4m3"),
    "nf4 in another storage": ("bnb-nf4", {"bnb_4bit_quant_storage": "bfloat16"}, "'uint8'"),
    "ct with sparsity": ("ct-int8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config"),
    "ct with transforms": ("ct-int8", {"transform_config": {"config_groups": {"u": {}}}}, "transform_config"),
}


def ct_groups(**changes: object) -> dict[str, object]:
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    return {"config_groups": {"g": {"targets": ["Linear"], "weights": weights, "format": "int-quantized", **changes}}}


def weights(**changes: object) -> dict[str, object]:
    return {"weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", **changes}}


def inputs(**changes: object) -> dict[str, object]:
    sound = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    return {"input_activations": {**sound, **changes}}


UNSUPPORTED_GROUPS = {
    "ct in nvfp4 of integers": ({"format": "nvfp4-pack-quantized"}, "'nvfp4-pack-quantized' with 8-bit int"),
    "ct in nvfp4 in groups of 32": (
        {"format": "nvfp4-pack-quantized", **weights(num_bits=4, type="float", strategy="tensor_group", group_size=32)},
        "groups of 32 is not supported; NVFP4 has 'tensor_group' and groups of 16",
    ),
    "ct in nvfp4 without a second scale": (
        {"format": "nvfp4-pack-quantized", **weights(num_bits=4, type="float", strategy="group", group_size=16)},
        "strategy 'group'",
    ),
    "ct with a second scale of integers": (weights(strategy="tensor_group", group_size=16), "strategy 'tensor_group'"),
    "ct in an unknown format": ({"format": "marlin-24"}, "'marlin-24'"),
    "ct dense": ({"format": "dense"}, "'dense'"),
    "ct with 6 bits": ({"format": "pack-quantized", **weights(num_bits=6)}, "6-bit int"),
    "ct with an unknown strategy": (weights(strategy="attn_head"), "'attn_head'.*tensor, channel, group, block"),
    "ct with 4-bit activations": (inputs(num_bits=4), "4-bit int activations"),
    "ct with activations of another type": (inputs(type="float"), "8-bit float activations.*INT8"),
    "ct with asymmetric activations": (inputs(symmetric=False), "symmetric False"),
    "ct with a dynamic scale a tensor": (inputs(strategy="tensor"), "strategy 'tensor'"),
    "ct with output activations": ({"output_activations": {"num_bits": 8}}, "output_activations"),
}
MALFORMED: dict[str, tuple[str, dict[str, object], str]] = {
    "gptq bits as a text": ("gptq-int4-g32", {"bits": "4"}, "bits is '4'"),
    "gptq group_size 0.5": ("gptq-int4-g32", {"group_size": 0.5}, "group_size is 0.5"),
    "gptq without sym": ("gptq-int4-g32", {"sym": None}, "no 'sym'"),
    "gptq group_size beyond the columns": ("gptq-int4-g32", {"group_size": 2**20}, "does not divide"),
    "fp8 block of one size": ("fp8-block", {"weight_block_size": [128]}, "two integers"),
    "fp8 block of size 0": ("fp8-block", {"weight_block_size": [0, 128]}, "two integers"),
    "fp8 block of bools": ("fp8-block", {"weight_block_size": [True, True]}, "two integers"),
    "ct without groups": ("ct-int8", {"config_groups": {}}, "no config_groups"),
    "ct groups as a list": ("ct-int8", {"config_groups": []}, "config_groups is"),
    "ct targets as a text": ("ct-int8", ct_groups(targets="Linear"), "targets is 'Linear'"),
    "ct target that is not a pattern": ("ct-int8", ct_groups(targets=["re:("]), "not a regular expression"),
    "ct module that no group names": ("ct-int8", ct_groups(targets=["re:.*experts.*"]), "no group .* names it"),
    "ct target that is long": ("ct-int8", ct_groups(targets=["re:" + "a" * 2000]), "too complex"),
    "ct block as a text": (
        "ct-fp8-block",
        {
            "config_groups": {
                "g": {
                    "targets": ["Linear"],
                    "format": "float-quantized",
                    "weights": {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": "128"},
                }
            }
        },
        "two integers",
    ),
}


@pytest.mark.parametrize("case", MISSHAPEN)
def test_parts_that_do_not_fit_together_are_named(tmp_path: Path, case: str) -> None:
    kind, changes, message = MISSHAPEN[case]
    folder = copy_of(kind, tmp_path)
    change_tensors(folder, changes)

    with pytest.raises(CheckpointError, match=message):
        open_quantized(folder)


def test_matrix_that_is_stored_twice_is_refused(tmp_path: Path) -> None:
    folder = copy_of("awq-g32", tmp_path)
    change_tensors(folder, {f"{Q}.weight": torch.zeros(64, 64)})

    with pytest.raises(CheckpointError, match=r"q_proj\.weight' quantized and plain"):
        open_quantized(folder)


@pytest.mark.parametrize("case", CORRUPT)
def test_contents_that_are_wrong_are_named(tmp_path: Path, case: str) -> None:
    kind, module, changes, message = CORRUPT[case]
    folder = copy_of(kind, tmp_path)
    change_tensors(folder, changes)
    tensors = open_quantized(folder).tensors
    tensor = tensors[f"{module}.weight"]

    with pytest.raises(CheckpointError, match=message):
        tensor.quantized.read()
    with pytest.raises(CheckpointError, match=message):
        tensor.read(torch.float32)


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_unsupported_kind_is_refused_with_what_would_work(tmp_path: Path, case: str) -> None:
    kind, changes, message = UNSUPPORTED[case]
    folder = copy_of(kind, tmp_path)
    change_quantization(folder, **changes)

    with pytest.raises(UnsupportedModelError, match=message):
        open_quantized(folder)


@pytest.mark.parametrize("case", UNSUPPORTED_GROUPS)
def test_unsupported_group_is_refused_with_what_would_work(tmp_path: Path, case: str) -> None:
    changes, message = UNSUPPORTED_GROUPS[case]
    folder = copy_of("ct-int8", tmp_path)
    change_quantization(folder, **ct_groups(**changes))

    with pytest.raises(UnsupportedModelError, match=message):
        open_quantized(folder)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_configuration_is_refused(tmp_path: Path, case: str) -> None:
    kind, changes, message = MALFORMED[case]
    folder = copy_of(kind, tmp_path)
    change_quantization(folder, **changes)

    with pytest.raises(CheckpointError, match=message):
        open_quantized(folder)


@pytest.mark.parametrize(
    ("kind", "name"), [("gptq-int4-g32", "quantize_config.json"), ("awq-g32", "quant_config.json")]
)
@pytest.mark.parametrize("has_method", [True, False])
def test_configuration_in_a_file_of_its_own_is_found(tmp_path: Path, kind: str, name: str, has_method: bool) -> None:
    folder = copy_of(kind, tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    section = fields.pop("quantization_config")
    if not has_method:
        section.pop("quant_method")
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / name).write_text(json.dumps(section))

    found = open_quantized(folder).tensors[f"{Q}.weight"].read(torch.float32)

    assert torch.equal(found, open_quantized(QUANTIZED / kind).tensors[f"{Q}.weight"].read(torch.float32))


def test_configuration_under_the_name_of_old_compressed_tensors_is_found(tmp_path: Path) -> None:
    folder = copy_of("ct-int8", tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    fields["compression_config"] = fields.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(fields))

    assert open_quantized(folder).tensors[f"{Q}.weight"].quantized is not None


def test_configuration_of_old_modelopt_is_found_by_its_file(tmp_path: Path) -> None:
    folder = copy_of("modelopt-nvfp4", tmp_path)
    fields = json.loads((folder / "config.json").read_text())
    del fields["quantization_config"]
    (folder / "config.json").write_text(json.dumps(fields))
    file = folder / "hf_quant_config.json"
    file.write_text('{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}')

    assert open_quantized(folder).tensors[f"{Q}.weight"].quantized is not None

    file.write_text('{"quantization": {"quant_algo": "W4A8_AWQ"}}')
    with pytest.raises(UnsupportedModelError, match=r"hf_quant_config\.json: ModelOpt's quant_algo 'W4A8_AWQ'"):
        open_quantized(folder)


def test_matrix_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    for kind, name, number in (
        ("ct-nvfp4", f"{Q}.weight_global_scale", 0.0),
        ("modelopt-nvfp4", f"{Q}.weight_scale_2", float("nan")),
    ):
        (tmp_path / kind).mkdir()
        folder = copy_of(kind, tmp_path / kind)
        change_tensors(folder, {name: torch.tensor([number])})
        with pytest.raises(CheckpointError, match=name.rpartition(".")[2]):
            open_quantized(folder).tensors[f"{Q}.weight"].quantized.read()


def test_smoothed_columns_of_modelopt_are_refused(tmp_path: Path) -> None:
    folder = copy_of("modelopt-nvfp4", tmp_path)
    change_tensors(folder, {f"{Q}.pre_quant_scale": torch.ones(64)})

    with pytest.raises(UnsupportedModelError, match="pre_quant_scale"):
        open_quantized(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_module_with_any_tensor_absent_or_short_is_refused_or_read_as_before(tmp_path: Path, kind: str) -> None:
    folder = copy_of(kind, tmp_path)
    module = EXPERTS if kind == "mxfp4-experts" else Q
    sound = load_file(folder / "model.safetensors")
    values = open_quantized(folder).tensors[f"{module}.weight"].read(torch.float32)
    names = [name for name in sound if name.startswith(module)]

    num_refused = 0
    for name in names:
        for damaged in (None, sound[name][: len(sound[name]) // 2] if sound[name].dim() else None):
            change_tensors(folder, {**sound, name: damaged})
            try:
                tensor = open_quantized(folder).tensors[f"{module}.weight"]
                is_same_shape = tensor.shape == values.shape  # if not, the loader names it
                assert not is_same_shape or torch.equal(tensor.read(torch.float32), values), name
            except (CheckpointError, KeyError):  # without codes there is no module
                num_refused += 1

    assert num_refused >= len(names)
