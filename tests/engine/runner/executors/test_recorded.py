"""Steps replayed from tapes give exactly the numbers of steps that run without."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PretrainedConfig

from engine.runner.executors.recorded import MAX_ROWS
from models.attention.base import AttentionBackend
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.batch import StateGroupBatch
from models.kernels.cpu.library import kernel_library
from models.linear.storage import WeightOptions
from models.quant.tensor import Encoding
from tests.helpers.checkpoints import VOCAB_SIZE, gpt2_config, llama_config, load_folder, qwen2_config, random_model
from tests.helpers.paged import PagedRun, PagedSequence, in_buffers, recorded_on
from tests.models.families.classic_variants import CLASSIC_VARIANTS
from tests.models.families.recurrent_variants import lfm2, qwen35
from tests.models.families.variants import qwen3

pytestmark = pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels")

MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": llama_config,
    "llama-tied": lambda: llama_config(tie_word_embeddings=True),
    "qwen2": qwen2_config,
    "gpt2": gpt2_config,
    "norms of heads": qwen3,
    "norms of heads with weights of their own": CLASSIC_VARIANTS["cohere-qk-norm"],
    "short convolutions": lfm2,
    "gated delta rule": qwen35,
    "windows": lambda: qwen2_config(use_sliding_window=True, sliding_window=6, max_window_layers=1),
}
# Tokens of each of four sequences in turn: (step, rows of each sequence); 0 sits the step out.
STEPS = [
    (7, 3, 0, 0),
    (1, 1, 0, 0),
    (1, 1, 5, 0),
    (1, 1, 1, 0),
    (1, 0, 1, 0),
    (1, 1, 0, 0),
    (0, 0, 1, 40),
    (1, 1, 1, 1),
]


class TwoRuns:
    """The same steps without a tape and recorded, each on KV tensors of its own."""

    def __init__(
        self, folder: Path, dtype: torch.dtype, backend: AttentionBackend, quantize_to: Encoding | None = None
    ) -> None:
        decoder = load_folder(folder, dtype, backend, WeightOptions(quantize_to=quantize_to))
        self.plain, other = PagedRun(decoder), PagedRun(decoder)
        self.recorded = recorded_on(other)
        self.sequences = [PagedSequence() for _ in STEPS[0]]
        self._tokens = torch.Generator().manual_seed(0)

    @torch.inference_mode()
    def step(self, counts: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states of both."""
        tokens = [torch.randint(VOCAB_SIZE, (count,), generator=self._tokens).tolist() for count in counts]
        items = [(sequence, ids) for sequence, ids in zip(self.sequences, tokens, strict=True) if ids]
        batch = self.plain.batch(items)
        plain = self.plain.decoder(batch, self.plain.kv)
        recorded = self.recorded.collect(self.recorded.launch(in_buffers(batch, self.recorded.buffers), None))
        for sequence, ids in items:
            sequence.num_computed += len(ids)
        return plain, recorded


@pytest.fixture(params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    random_model(MODELS[request.param]()).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("quantize_to", [None, Encoding.INT4, Encoding.FP8_E4M3])
def test_recorded_steps_equal_those_without_a_tape(folder: Path, quantize_to: Encoding | None) -> None:
    runs = TwoRuns(folder, torch.bfloat16, CpuAttention(), quantize_to)

    for counts in STEPS:
        plain, recorded = runs.step(counts)
        assert torch.isfinite(plain).all()
        assert torch.equal(recorded, plain), counts

    sizes = {(sum(counts), sum(map(bool, counts))) for counts in STEPS}
    assert set(runs.recorded.recorded_sizes) == {size for size in sizes if size[0] <= MAX_ROWS}


def test_only_steps_that_cannot_be_recorded_run_without_a_tape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    random_model(llama_config()).save_pretrained(tmp_path)
    runs = TwoRuns(tmp_path, torch.bfloat16, CpuAttention())
    run_layers = runs.plain.decoder.run_layers
    monkeypatch.setattr(
        runs.plain.decoder, "run_layers", lambda x, *rest: run_layers(x if len(x) < 7 else x.neg().neg(), *rest)
    )

    with caplog.at_level("DEBUG", "engine.runner.executors.recorded"):
        for counts in STEPS:
            plain, recorded = runs.step(counts)
            assert torch.equal(recorded, plain), counts

    assert set(runs.recorded.recorded_sizes) == {(2, 2), (3, 3), (4, 4)}
    assert caplog.messages == ["steps of 10 rows run without a tape: aten.neg.default computes between native kernels"]


def test_steps_with_speculative_rows_leave_their_rows_with_the_layers(tmp_path: Path) -> None:
    random_model(lfm2()).save_pretrained(tmp_path)
    runs = TwoRuns(tmp_path, torch.bfloat16, CpuAttention())
    runs.step((3, 0, 0, 0))
    plain = runs.plain
    batch = plain.batch([(runs.sequences[0], [1, 2])])
    attended, states = batch.groups
    assert isinstance(states, StateGroupBatch)
    batch = dataclasses.replace(
        batch, groups=(attended, dataclasses.replace(states, speculative_rows=torch.tensor([0, 1])))
    )

    with torch.inference_mode():
        pending = runs.recorded.launch(in_buffers(batch, runs.recorded.buffers), None)
        assert torch.equal(runs.recorded.collect(pending), plain.decoder(batch, plain.kv))

    assert runs.recorded.recorded_sizes == [(3, 1)]
    runs.step((1, 0, 0, 0))
    assert runs.recorded.recorded_sizes == [(3, 1), (1, 1)]


@pytest.mark.parametrize(
    ("dtype", "backend"), [(torch.float32, CpuAttention()), (torch.bfloat16, ReferenceAttention())]
)
def test_steps_with_torch_operators_run_without_a_tape(
    folder: Path, dtype: torch.dtype, backend: AttentionBackend
) -> None:
    runs = TwoRuns(folder, dtype, backend)

    for counts in STEPS:
        plain, recorded = runs.step(counts)
        assert torch.equal(recorded, plain), counts

    assert not runs.recorded.recorded_sizes
