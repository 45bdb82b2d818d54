"""A sequence has the same logits alone as in a batch, and for any chunk size, with an adapter and without."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import LlamaConfig

from models.attention.cpu import CpuAttention
from models.decoder import Decoder
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from tests.helpers.adapters import random_adapter
from tests.helpers.amx import without_amx
from tests.helpers.checkpoints import load_folder, load_gguf, qwen2_config, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.quantized import KINDS, QUANTIZED

GGUF_FORMATS = (
    *("F16", "F32", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ4_NL", "IQ4_XS", "MXFP4", "IQ3_S", "TQ2_0"),
)
ON_LOAD = {
    "bf16": None,
    "int8": WeightOptions(quantize_to=Encoding.INT8),
    "int4": WeightOptions(quantize_to=Encoding.INT4, group_size=32),
    "fp8": WeightOptions(quantize_to=Encoding.FP8_E4M3),
    "nf4": WeightOptions(quantize_to=Encoding.NF4),
    "fp4": WeightOptions(quantize_to=Encoding.FP4),
}
CHECKPOINTS = [kind for kind in KINDS if not kind.startswith("mxfp4-experts")]
FORMATS = (*GGUF_FORMATS, *ON_LOAD, *CHECKPOINTS)
IN_CHUNKS = ("Q8_0", "Q4_1", *ON_LOAD, "ct-w8a8-written", "ct-fp8-dynamic", "fp8-block")
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
NUM_IDS = 64  # of the smallest vocabulary
LENGTHS = (9, 1, 5, 12)
SLOTS = (0, -1, 1, 0)
PROMPTS = [
    torch.randint(NUM_IDS, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in LENGTHS
]
NEXT = [[7], [8], [9], [7]]


@pytest.fixture(autouse=True, scope="module")
def same_order() -> Iterator[None]:
    with without_amx():
        yield


def _decoder(name: str, folder: Path) -> Decoder:
    """A decoder with weights in this format, and adapters in two slots."""
    if name in CHECKPOINTS:
        config = LlamaConfig.from_pretrained(QUANTIZED / name)
    else:
        config = qwen2_config(**(WIDE if name in GGUF_FORMATS else {}))
    model = random_model(config)
    if name in GGUF_FORMATS:
        write_gguf(model, folder / "model.gguf", GGMLQuantizationType[name])
        decoder = load_gguf([folder / "model.gguf"], torch.bfloat16, CpuAttention())
    elif name in CHECKPOINTS:
        decoder = load_folder(QUANTIZED / name, torch.bfloat16, CpuAttention())
    else:
        model.save_pretrained(folder / "model")
        decoder = load_folder(folder / "model", torch.bfloat16, CpuAttention(), ON_LOAD[name])
    decoder.enable_adapters(2, 20)
    for slot, rank in enumerate((4, 20)):
        adapter = random_adapter(model, rank=rank, seed=rank, only="_proj$")
        read = adapter.loaded(folder / str(slot), decoder, type(model).__name__)
        decoder.set_adapter(slot, decoder.prepare_adapter(read))
    return decoder


@pytest.fixture(scope="module", params=IN_CHUNKS)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return _decoder(request.param, tmp_path_factory.mktemp("adapted"))


def _logits(decoder: Decoder, places: list[int]) -> list[torch.Tensor]:
    """Return logits of a prompt and the three tokens after it, for each of these sequences, which run together."""
    run, sequences = PagedRun(decoder), [PagedSequence() for _ in places]
    parts: list[list[torch.Tensor]] = []
    for texts in (PROMPTS, NEXT, NEXT, NEXT):
        items = [(sequence, texts[place]) for sequence, place in zip(sequences, places, strict=True)]
        parts.append(run.step(items, [SLOTS[place] for place in places]))
    return [torch.cat(of_sequence) for of_sequence in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_the_same_alone_and_in_a_batch(name: str, tmp_path: Path) -> None:
    decoder = _decoder(name, tmp_path)
    together = _logits(decoder, [0, 1, 2, 3])
    for place, logits in enumerate(together):
        assert torch.equal(_logits(decoder, [place])[0], logits), place
    assert not torch.equal(together[0][:1], together[3][:1])


@pytest.mark.parametrize("slot", [-1, 0])
def test_logits_are_the_same_for_every_chunk_size(decoder: Decoder, slot: int) -> None:
    prompt = torch.randint(NUM_IDS, (130,), generator=torch.Generator().manual_seed(1)).tolist()

    def logits(chunk: int) -> torch.Tensor:
        run, sequence = PagedRun(decoder), PagedSequence()
        chunks = [prompt[at : at + chunk] for at in range(0, len(prompt), chunk)]
        return torch.cat([run.step([(sequence, tokens)], [slot])[0] for tokens in chunks])

    whole = logits(len(prompt))
    for chunk in (1, 3, 16, 70):
        assert torch.equal(logits(chunk), whole), chunk


def test_a_slot_changes_what_a_sequence_says(decoder: Decoder) -> None:
    run = PagedRun(decoder)
    plain, adapted = run.step([(PagedSequence(), PROMPTS[0]) for _ in range(2)], [-1, 0])
    assert (plain - adapted).abs().mean() > 0.01
