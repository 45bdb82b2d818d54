"""A sequence has the same logits alone as in a batch, and for any chunk size, with an adapter and without."""

import pytest
import torch
from gguf import GGMLQuantizationType

from models.attention.cpu import CpuAttention
from models.decoder import Decoder
from models.kernels.cpu.library import required_library
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from tests.helpers.adapters import random_adapter
from tests.helpers.checkpoints import VOCAB_SIZE, load_folder, load_gguf, qwen2_config, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.paged import PagedRun, PagedSequence

OTHER_FORMATS = {
    "int8": WeightOptions(quantize_to=Encoding.INT8),
    "int4": WeightOptions(quantize_to=Encoding.INT4, group_size=32),
}
LENGTHS = (9, 1, 5, 12)
SLOTS = (0, -1, 1, 0)
PROMPTS = [
    torch.randint(VOCAB_SIZE, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in LENGTHS
]
NEXT = [[7], [8], [9], [7]]


@pytest.fixture(scope="module", params=["Q8_0", "Q4_1", "bf16", *OTHER_FORMATS])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    if required_library().level == "amx":
        pytest.skip("AMX tiles of many rows add up in another order than the kernels for few")
    folder = tmp_path_factory.mktemp("adapted")
    model = random_model(qwen2_config())
    adapters = [random_adapter(model, rank=rank, seed=rank, only="_proj$") for rank in (4, 20)]
    if request.param in GGMLQuantizationType.__members__:
        write_gguf(model, folder / "model.gguf", GGMLQuantizationType[request.param])
        decoder = load_gguf([folder / "model.gguf"], torch.bfloat16, CpuAttention())
    else:
        model.save_pretrained(folder / "model")
        weights = OTHER_FORMATS.get(request.param)
        decoder = load_folder(folder / "model", torch.bfloat16, CpuAttention(), weights)
    decoder.enable_adapters(2, 20)
    for slot, adapter in enumerate(adapters):
        read = adapter.loaded(folder / str(slot), decoder, "Qwen2ForCausalLM")
        decoder.set_adapter(slot, decoder.prepare_adapter(read))
    return decoder


def _logits(decoder: Decoder, places: list[int]) -> list[torch.Tensor]:
    """Of a prompt and the three tokens after it, for each of these sequences, which run together."""
    run, sequences = PagedRun(decoder, CpuAttention()), [PagedSequence() for _ in places]
    parts: list[list[torch.Tensor]] = []
    for texts in (PROMPTS, NEXT, NEXT, NEXT):
        items = [(sequence, texts[place]) for sequence, place in zip(sequences, places, strict=True)]
        parts.append(run.step(items, [SLOTS[place] for place in places]))
    return [torch.cat(of_sequence) for of_sequence in zip(*parts, strict=True)]


def test_logits_are_the_same_alone_and_in_a_batch(decoder: Decoder) -> None:
    together = _logits(decoder, [0, 1, 2, 3])
    for place, logits in enumerate(together):
        assert torch.equal(_logits(decoder, [place])[0], logits), place
    assert not torch.equal(together[0][:1], together[3][:1])


@pytest.mark.parametrize("slot", [-1, 0])
def test_logits_are_the_same_for_every_chunk_size(decoder: Decoder, slot: int) -> None:
    prompt = torch.randint(VOCAB_SIZE, (130,), generator=torch.Generator().manual_seed(1)).tolist()

    def logits(chunk: int) -> torch.Tensor:
        run, sequence = PagedRun(decoder, CpuAttention()), PagedSequence()
        chunks = [prompt[at : at + chunk] for at in range(0, len(prompt), chunk)]
        return torch.cat([run.step([(sequence, tokens)], [slot])[0] for tokens in chunks])

    whole = logits(len(prompt))
    for chunk in (1, 3, 16, 70):
        assert torch.equal(logits(chunk), whole), chunk


def test_a_slot_changes_what_a_sequence_says(decoder: Decoder) -> None:
    run = PagedRun(decoder, CpuAttention())
    plain, adapted = run.step([(PagedSequence(), PROMPTS[0]) for _ in range(2)], [-1, 0])
    assert (plain - adapted).abs().mean() > 0.01
