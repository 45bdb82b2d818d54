"""Rows of a layer have the same bits whether or not another slot, or another row, has an adapter with DoRA."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from models.attention.cpu import CpuAttention
from models.decoder import Decoder
from models.kernels.cpu.library import required_library
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from tests.helpers.adapters import random_adapter, random_dora
from tests.helpers.checkpoints import load_folder, load_gguf, qwen2_config, random_model
from tests.helpers.gguf_writer import write_gguf

PLAIN, DORA, NUM_SLOTS = 0, 1, 2
ON_LOAD = {
    "bf16": None,
    "int4": WeightOptions(quantize_to=Encoding.INT4, group_size=32),
    "nf4": WeightOptions(quantize_to=Encoding.NF4),
}
FORMATS = ("Q8_0", "Q4_K", *ON_LOAD, "fp32")  # GGUF's adapters are in the layers' own calls; fp32 is torch's
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
NUM_ROWS = (3, 9, 40, 131)  # kernels for few rows and for many


class Adapted:
    """A decoder with a plain adapter in its slot. The adapter with DoRA can be set and removed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.is_torch = name == "fp32"
        model = random_model(qwen2_config(**WIDE))
        if name in GGMLQuantizationType.__members__:
            write_gguf(model, folder / "model.gguf", GGMLQuantizationType[name])
            self.decoder = load_gguf([folder / "model.gguf"], torch.bfloat16, CpuAttention())
        else:
            model.save_pretrained(folder / "model")
            dtype = torch.float32 if self.is_torch else torch.bfloat16
            self.decoder = load_folder(folder / "model", dtype, CpuAttention(), ON_LOAD.get(name))
        self.decoder.enable_adapters(NUM_SLOTS, 8)
        plain = random_adapter(model, rank=4, seed=4, only="_proj$")
        dora = random_dora(model, rank=6, seed=6)
        plain_read, dora_read = (
            adapter.loaded(folder / str(slot), self.decoder, type(model).__name__)
            for slot, adapter in enumerate((plain, dora))
        )
        self.decoder.set_adapter(PLAIN, self.decoder.prepare_adapter(plain_read))
        self._dora = self.decoder.prepare_adapter(dora_read)

    def with_dora(self, *, is_loaded: bool) -> Decoder:
        self.decoder.set_adapter(DORA, self._dora if is_loaded else None)
        return self.decoder


@pytest.fixture(scope="module", params=FORMATS)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return Adapted(request.param, tmp_path_factory.mktemp("dora"))


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=["bf16-residual", "fp32-residual"])
def residual_dtype(request: pytest.FixtureRequest, adapted: Adapted) -> torch.dtype:
    if request.param != torch.float32 and adapted.is_torch:
        pytest.skip("in fp32, residuals are fp32")
    dtype: torch.dtype = request.param
    return dtype


def _inputs(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x and a residual, fp32: the first of the same rows."""
    generator = torch.Generator().manual_seed(1)
    x, residual = (torch.randn(NUM_ROWS[-1], WIDE["hidden_size"], generator=generator) for _ in range(2))
    return x[:num_rows], residual[:num_rows]


def _outputs(decoder: Decoder, slots: list[int], residual_dtype: torch.dtype) -> torch.Tensor:
    """Return the outputs of a layer that adds a residual."""
    layer = decoder.adapted_layers()["layers.0.attn.out"]
    x, residual = _inputs(len(slots))
    with torch.inference_mode():
        return layer(x, residual=residual.to(residual_dtype), adapter_slots=torch.tensor(slots, dtype=torch.int32))


def _slots(num_rows: int, *, last: int) -> list[int]:
    """None, the plain adapter, and `last`, in turns."""
    return [(-1, PLAIN, last)[row % 3] for row in range(num_rows)]


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_dora_in_another_slot_changes_no_bit(adapted: Adapted, residual_dtype: torch.dtype, num_rows: int) -> None:
    slots = _slots(num_rows, last=-1)
    before = _outputs(adapted.with_dora(is_loaded=False), slots, residual_dtype)
    beside = _outputs(adapted.with_dora(is_loaded=True), slots, residual_dtype)
    assert torch.equal(before, beside)


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_dora_in_another_row_changes_no_bit(adapted: Adapted, residual_dtype: torch.dtype, num_rows: int) -> None:
    slots = _slots(num_rows, last=DORA)
    without = _outputs(adapted.with_dora(is_loaded=False), _slots(num_rows, last=-1), residual_dtype)
    together = _outputs(adapted.with_dora(is_loaded=True), slots, residual_dtype)
    has_dora = torch.tensor(slots) == DORA
    assert torch.equal(together[~has_dora], without[~has_dora])
    assert ((together - without)[has_dora].abs().amax(1) > 0.1).all()


@pytest.mark.parametrize("num_rows", NUM_ROWS)
def test_a_row_with_dora_is_the_same_alone_and_in_a_batch(
    adapted: Adapted, residual_dtype: torch.dtype, num_rows: int
) -> None:
    decoder = adapted.with_dora(is_loaded=True)
    together = _outputs(decoder, [DORA, *_slots(num_rows - 1, last=DORA)], residual_dtype)[:1]
    alone = _outputs(decoder, [DORA], residual_dtype)
    if adapted.is_torch or required_library().level == "amx":  # products of few and of many rows round differently
        torch.testing.assert_close(together, alone, atol=5e-2, rtol=1e-2)
    else:
        assert torch.equal(together, alone)


@pytest.mark.parametrize("num_rows", [3, NUM_ROWS[-1]])
def test_a_residual_is_added_to_what_dora_makes_of_the_product(adapted: Adapted, num_rows: int) -> None:
    """And not scaled with it."""
    decoder, slots = adapted.with_dora(is_loaded=True), _slots(num_rows, last=DORA)
    layer = decoder.adapted_layers()["layers.0.attn.out"]
    x, residual = _inputs(num_rows)
    with torch.inference_mode():
        numbers = torch.tensor(slots, dtype=torch.int32)
        product = layer(x, out_dtype=torch.float32, adapter_slots=numbers)
        got = layer(x, residual=residual.clone(), adapter_slots=numbers)
    torch.testing.assert_close(got, product + residual, atol=1e-4, rtol=1e-5)
