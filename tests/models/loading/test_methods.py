"""The method that a linear layer gets, and the notes for the operator."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from models.decoder import Decoder
from models.kernels.cpu import operations
from models.kernels.cpu.library import kernel_library
from models.linear.linear import Linear
from models.linear.storage import WeightOptions
from tests.helpers.checkpoints import llama_config, load_folder, load_gguf_with_note, random_model
from tests.helpers.gguf_writer import write_gguf

needs_kernels = pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")


def stored(decoder: Decoder) -> dict[str, set[str]]:
    """The method and formats of each linear layer."""
    layers = {name: module for name, module in decoder.named_modules() if isinstance(module, Linear)}
    return {
        name: {layer.method.name, *(layer.method.format_of(shard) for shard in layer.shards or [None])}
        for name, layer in layers.items()
    }


def gguf(folder: Path, kind: Kind | Callable[[str], Kind], **changes: object) -> list[Path]:
    write_gguf(random_model(llama_config(**changes)), folder / "m.gguf", kind)
    return [folder / "m.gguf"]


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "keeps_quantized", "note"),
    [
        (torch.bfloat16, True, "Weights: 0.00 GiB: q8_0 16 tensors, f32 5"),
        (torch.bfloat16, False, "Weights: 0.00 GiB: bf16 16 tensors, f32 5; dequantized from q8_0 16: as requested"),
        (
            torch.float32,
            True,
            "Weights: 0.00 GiB: f32 21 tensors; dequantized from q8_0 16: "
            "the native kernels compute in bfloat16, not in float32",
        ),
    ],
)
def test_note_says_what_is_stored_and_why(tmp_path: Path, dtype: torch.dtype, keeps_quantized: bool, note: str) -> None:
    paths = gguf(tmp_path, Kind.Q8_0)

    options = WeightOptions(keeps_quantized=keeps_quantized)

    assert load_gguf_with_note(paths, dtype, weights=options)[1] == note


@needs_kernels
def test_each_part_of_a_fused_layer_keeps_its_format(tmp_path: Path) -> None:
    paths = gguf(tmp_path, lambda name: Kind.F16 if "k_proj" in name else Kind.Q4_0)

    decoder, note = load_gguf_with_note(paths, torch.bfloat16)

    assert stored(decoder)["layers.0.attn.qkv"] == {"native", "bf16", "q4_0"}
    assert stored(decoder)["layers.0.attn.out"] == {"native", "q4_0"}
    assert note == "Weights: 0.00 GiB: q4_0 14 tensors, f32 5, bf16 2"


@needs_kernels
def test_bf16_checkpoint_is_packed_except_for_what_is_only_looked_up(tmp_path: Path) -> None:
    random_model(llama_config()).save_pretrained(tmp_path)

    formats = stored(load_folder(tmp_path, torch.bfloat16))

    assert formats.pop("embed") == {"dense", "bf16"}
    assert set(map(frozenset, formats.values())) == {frozenset({"native", "bf16"})}


@needs_kernels
def test_layer_whose_width_no_kernel_takes_stays_plain(tmp_path: Path) -> None:
    random_model(llama_config(intermediate_size=88)).save_pretrained(tmp_path)

    formats = stored(load_folder(tmp_path, torch.bfloat16))

    assert formats["layers.0.mlp.down"] == {"dense", "bf16"}
    assert formats["layers.0.mlp.gate_up"] == {"native", "bf16"}


def test_without_kernels_all_is_plain_and_the_note_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "kernel_library", lambda: None)

    decoder, note = load_gguf_with_note(gguf(tmp_path, Kind.Q4_0), torch.bfloat16)

    assert set(map(frozenset, stored(decoder).values())) == {frozenset({"dense", "bf16"})}
    assert note.endswith("dequantized from q4_0 16: the native kernels are not available (the reason is in the log)")
