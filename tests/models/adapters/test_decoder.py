"""Adapters on native kernels and on every weight format: against fp32, on tapes, and while slots change."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from engine.runner.executors.recorded import RecordedExecutor
from models.attention.cpu import CpuAttention
from models.decoder import Decoder
from models.errors import AdapterError
from models.kernels.cpu.library import required_library
from models.linear.adapters.adapter import Adapter
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from tests.helpers.adapters import RandomAdapter, random_adapter, random_dora
from tests.helpers.checkpoints import VOCAB_SIZE, load_folder, load_gguf, qwen2_config, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.paged import PagedRun, PagedSequence, in_buffers, recorded_on

PROMPT = torch.randint(VOCAB_SIZE, (9,), generator=torch.Generator().manual_seed(3)).tolist()
FORMATS = {"bf16": None, "int4": Encoding.INT4, "int8": Encoding.INT8, "fp8": Encoding.FP8_E4M3}


@dataclass(frozen=True)
class Files:
    """A tiny Qwen2, and adapters of it: two that change all layers, and one with DoRA."""

    folder: Path
    adapters: dict[str, RandomAdapter]

    def decoder(self, dtype: torch.dtype, weights: WeightOptions | None = None) -> Decoder:
        decoder = load_folder(self.folder / "base", dtype, CpuAttention(), weights)
        decoder.enable_adapters(3, 16)
        return decoder

    def adapter(self, name: str, decoder: Decoder) -> Adapter:
        return self.adapters[name].loaded(self.folder / name, decoder, "Qwen2ForCausalLM")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("qwen2")
    model = random_model(qwen2_config())
    model.save_pretrained(folder / "base")
    adapters = {name: random_adapter(model, rank=rank, seed=rank) for name, rank in (("first", 3), ("second", 5))}
    return Files(folder, {**adapters, "dora": random_dora(model, rank=4, seed=4)})


def _logits(decoder: Decoder, slots: list[int]) -> torch.Tensor:
    """Return logits of the prompt in each slot: [slots, tokens, V]."""
    run = PagedRun(decoder)
    return torch.stack(run.step([(PagedSequence(), PROMPT) for _ in slots], slots))


def _divergence(logits: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the mean divergence in nats per row."""
    return float(
        torch.nn.functional.kl_div(logits.log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none")
        .sum(-1)
        .mean()
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("adapter", ["first", "dora"])
def test_native_layers_of_every_format_compute_adapters(files: Files, name: str, adapter: str) -> None:
    encoding = FORMATS[name]
    weights = WeightOptions(quantize_to=encoding, group_size=32 if encoding is Encoding.INT4 else None)
    native, exact = files.decoder(torch.bfloat16, weights), files.decoder(torch.float32, weights)
    for decoder in (native, exact):
        decoder.set_adapter(1, decoder.prepare_adapter(files.adapter(adapter, decoder)))

    got, want = _logits(native, [1, -1]), _logits(exact, [1, -1])

    assert (want[0] - want[1]).abs().mean() > 0.1
    assert _divergence(got[1], want[1]) < 2e-3
    assert _divergence(got[0], want[0]) < 2e-3
    assert _divergence(got[1], want[0]) > 2e-2


def test_a_batch_has_rows_of_several_adapters_and_of_none(files: Files) -> None:
    decoder = files.decoder(torch.bfloat16)
    decoder.set_adapter(0, decoder.prepare_adapter(files.adapter("first", decoder)))
    decoder.set_adapter(2, decoder.prepare_adapter(files.adapter("second", decoder)))

    alone = [_logits(decoder, [slot])[0] for slot in (2, -1, 0)]

    together = _logits(decoder, [2, -1, 0])

    # On AMX, kernels for few and for many rows round differently.
    assert all(_divergence(rows, own) < 2e-3 for rows, own in zip(together, alone, strict=True))
    assert all(_divergence(rows, other) > 2e-2 for rows, other in zip(together, (*alone[1:], alone[0]), strict=True))


def test_emptied_and_other_slots_leave_rows_as_they_are(files: Files) -> None:
    decoder = files.decoder(torch.bfloat16)
    plain = _logits(decoder, [-1])
    decoder.set_adapter(0, decoder.prepare_adapter(files.adapter("dora", decoder)))
    decoder.set_adapter(1, decoder.prepare_adapter(files.adapter("first", decoder)))
    decoder.set_adapter(1, None)

    assert torch.equal(_logits(decoder, [-1]), plain)
    assert _divergence(_logits(decoder, [1]), plain) < 2e-3


def test_a_prepared_adapter_is_set_without_packing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = files.decoder(torch.bfloat16)
    adapter = files.adapter("dora", decoder)
    decoder.set_adapter(0, decoder.prepare_adapter(adapter))
    want = _logits(decoder, [0])
    with ThreadPoolExecutor(1) as pool:
        prepared = pool.submit(decoder.prepare_adapter, adapter).result()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights are packed between steps")

    for module in ("models.kernels.cpu.adapters", "models.linear.adapters.native_bank"):
        monkeypatch.setattr(f"{module}.pack_weight", refuse)
    decoder.set_adapter(1, prepared)

    assert torch.equal(_logits(decoder, [1]), want)


@pytest.fixture
def recorded() -> Callable[[Decoder, int], torch.Tensor]:
    """Return a function (decoder, slot) -> hidden row of the next token on a tape, checked against a plain step."""
    runs: dict[int, tuple[PagedRun, RecordedExecutor, PagedSequence]] = {}

    def step(decoder: Decoder, slot: int) -> torch.Tensor:
        if id(decoder) not in runs:
            run, other = PagedRun(decoder), PagedRun(decoder)
            sequence = PagedSequence()
            run.step([(sequence, PROMPT)])
            other.step([(PagedSequence(), PROMPT)])
            runs[id(decoder)] = run, recorded_on(other), sequence
        run, layers, sequence = runs[id(decoder)]
        batch = run.batch([(sequence, [7])], [slot])
        with torch.inference_mode():
            hidden = layers.launch(in_buffers(batch, layers.buffers), None).hidden.clone()
            assert torch.equal(hidden, decoder(batch, run.kv))
        assert layers.recorded_sizes.count((1, 1)) == len(layers.recorded_sizes) > 0
        sequence.num_computed += 1
        return hidden

    return step


def test_steps_with_adapters_are_recorded_and_stay_valid_when_slots_change(
    files: Files, recorded: Callable[[Decoder, int], torch.Tensor]
) -> None:
    decoder = files.decoder(torch.bfloat16)
    for name, slot in (("first", 0), ("second", 0), ("second", 1)):
        decoder.set_adapter(slot, decoder.prepare_adapter(files.adapter(name, decoder)))
        recorded(decoder, slot)
        recorded(decoder, -1)
    decoder.set_adapter(1, None)
    recorded(decoder, 1)


def test_steps_of_gguf_layers_are_recorded_beside_dora(
    files: Files, recorded: Callable[[Decoder, int], torch.Tensor], tmp_path: Path
) -> None:
    if required_library().level == "amx":
        pytest.skip("residuals are added after the layers' calls")
    write_gguf(random_model(qwen2_config()), tmp_path / "model.gguf", GGMLQuantizationType.Q8_0)
    decoder = load_gguf([tmp_path / "model.gguf"], torch.bfloat16, CpuAttention())
    decoder.enable_adapters(3, 16)
    decoder.set_adapter(0, decoder.prepare_adapter(files.adapter("first", decoder)))
    recorded(decoder, 0)
    for name in ("dora", "first", "dora"):
        decoder.set_adapter(2, decoder.prepare_adapter(files.adapter(name, decoder)))
        recorded(decoder, 2)
        recorded(decoder, 0)
    assert decoder.adapters_version == 0


def test_steps_of_other_layers_are_recorded_again_without_dora(files: Files) -> None:
    decoder = files.decoder(torch.bfloat16)
    run, other = PagedRun(decoder), PagedRun(decoder)
    sequence = PagedSequence()
    run.step([(sequence, PROMPT)])
    other.step([(PagedSequence(), PROMPT)])
    layers = recorded_on(other)
    decoder.set_adapter(0, decoder.prepare_adapter(files.adapter("first", decoder)))
    hidden = []
    for name in (None, "dora", "first"):
        change = None if name is None else decoder.prepare_adapter(files.adapter(name, decoder))
        decoder.set_adapter(2, change)
        batch = run.batch([(sequence, [7])], [0])
        with torch.inference_mode():
            hidden += [layers.launch(in_buffers(batch, layers.buffers), None).hidden.clone() for _ in range(2)]
        assert layers.recorded_sizes == ([] if name == "dora" else [(1, 1)])
    assert all(torch.equal(hidden[0], each) for each in hidden[1:])


def test_an_adapter_of_a_higher_rank_is_refused(files: Files) -> None:
    decoder = load_folder(files.folder / "base")
    decoder.enable_adapters(1, 4)
    with pytest.raises(AdapterError, match="rank 5; at most 4 is served; raise --max-lora-rank"):
        decoder.set_adapter(0, decoder.prepare_adapter(files.adapter("second", decoder)))
