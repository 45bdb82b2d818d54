"""Parity: tiny random checkpoints written by transformers, loaded by us, logits compared row by row."""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import Llama4ForConditionalGeneration, PreTrainedModel

from models.attention.base import AttentionBackend
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.families.registry import FAMILIES
from models.kernels.ops import Operations
from models.linear.linear import Linear
from tests.helpers.adapters import adapted, random_adapter
from tests.helpers.checkpoints import VOCAB_SIZE, exact_attention, load_folder, model_class, random_model, save_model
from tests.helpers.paged import PagedRun, PagedSequence, in_buffers, recorded_on
from tests.models.families.all_variants import ALL_VARIANTS

BLOCK_SIZE = 4
LENGTHS = (37, 9, 1, 22)


class Column(NamedTuple):
    """A back end, and a column of the table of operations; None: the one that is selected for a CPU."""

    backend: AttentionBackend
    ops: Operations | None
    tolerance: float = 1e-4  # of fp32 logits


CPU = Column(CpuAttention(), None)


class Reference:
    """A random model of transformers, its checkpoint, and its logits for prompts of LENGTHS."""

    def __init__(self, variant: str, folder: Path) -> None:
        self.model = random_model(ALL_VARIANTS[variant]())
        self.folder = folder
        save_model(self.model, folder)
        self.prompts = random_prompts(LENGTHS)
        self.truths = [truth(self.model, prompt) for prompt in self.prompts]

    @cached_property
    def rounded_truths(self) -> list[torch.Tensor]:
        """Logits of the same model in bf16."""
        rounded = type(self.model).from_pretrained(
            self.folder, dtype=torch.bfloat16, attn_implementation=exact_attention(self.model.config)
        )
        return [truth(rounded, prompt) for prompt in self.prompts]


@dataclass(frozen=True)
class Pair:
    """A model of transformers, and the columns that compute it."""

    reference: Reference
    column: Column
    decoders: dict[torch.dtype, Decoder] = field(default_factory=dict)  # loaded once

    @property
    def model(self) -> PreTrainedModel:
        return self.reference.model

    @property
    def prompts(self) -> list[list[int]]:
        return self.reference.prompts

    @property
    def truths(self) -> list[torch.Tensor]:
        return self.reference.truths

    def run(self, dtype: torch.dtype = torch.float32) -> PagedRun:
        backend = self.column.backend
        if dtype not in self.decoders:
            self.decoders[dtype] = load_folder(self.reference.folder, dtype, backend, ops=self.column.ops)
        decoder = self.decoders[dtype]
        for attention in decoder.spec.attention_specs:
            if reason := backend.unsupported(attention, dtype, dtype, torch.device("cpu")):
                pytest.skip(f"{backend.name} {reason}")
        return PagedRun(decoder, block_size=BLOCK_SIZE)

    def check(self, actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
        """Compare fp32 logits of each sequence."""
        for rows, expected_rows in zip(actual, expected, strict=True):
            torch.testing.assert_close(rows, expected_rows, rtol=0.0, atol=self.column.tolerance)


@pytest.fixture(scope="module", params=["cpu", "torch"])
def column(request: pytest.FixtureRequest) -> Column:
    """All native kernels; and torch everywhere, as on a device without kernels."""
    return CPU if request.param == "cpu" else Column(ReferenceAttention(), Operations())


@pytest.fixture(scope="session")
def reference_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """A function that makes a variant's reference once, for all columns."""
    return functools.cache(lambda variant: Reference(variant, tmp_path_factory.mktemp(variant)))


@pytest.fixture(scope="module", params=ALL_VARIANTS)
def pair(request: pytest.FixtureRequest, reference_of: Callable[[str], Reference], column: Column) -> Pair:
    return Pair(reference_of(request.param), column)


def random_prompts(lengths: tuple[int, ...], seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB_SIZE, (length,), generator=generator).tolist() for length in lengths]


def truth(model: PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    if isinstance(model, Llama4ForConditionalGeneration):
        model = model.language_model  # the whole fails without an image
    with torch.inference_mode():
        return model(torch.tensor([prompt]), use_cache=False).logits[0].float()


def run_in_chunks(run: PagedRun, prompts: list[list[int]], chunk: int) -> list[torch.Tensor]:
    """Return logits of every row. Each step feeds `chunk` tokens of all prompts, so that the batch thins out."""
    sequences = [PagedSequence() for _ in prompts]
    parts: list[list[torch.Tensor]] = [[] for _ in prompts]
    for start in range(0, max(map(len, prompts)), chunk):
        active = [index for index, prompt in enumerate(prompts) if start < len(prompt)]
        logits = run.step([(sequences[index], prompts[index][start : start + chunk]) for index in active])
        for index, rows in zip(active, logits, strict=True):
            parts[index].append(rows)
    return [torch.cat(rows) for rows in parts]


def test_every_supported_architecture_has_two_variants() -> None:
    counts = Counter(model_class(make()).__name__ for make in ALL_VARIANTS.values())

    assert {name: counts[name] for name in FAMILIES if counts[name] < 2} == {}


def test_logits_of_the_random_models_are_spread(pair: Pair) -> None:
    assert 0.5 < pair.truths[0].std() < 2.5


def test_fp32_logits_equal_transformers(pair: Pair) -> None:
    pair.check(run_in_chunks(pair.run(), pair.prompts, chunk=max(LENGTHS)), pair.truths)


@pytest.mark.parametrize(
    ("column", "chunk"),
    [("cpu", 1), ("cpu", 3), ("cpu", BLOCK_SIZE + 1), ("torch", 3)],
    indirect=["column"],
)
def test_fp32_logits_do_not_depend_on_chunks(pair: Pair, chunk: int) -> None:
    pair.check(run_in_chunks(pair.run(), pair.prompts, chunk), pair.truths)


def test_fp32_logits_of_prefill_and_decode_in_one_batch(pair: Pair) -> None:
    run = pair.run()
    long, short = PagedSequence(), PagedSequence()
    run.step([(long, pair.prompts[0][:-1])])

    decoded, prefilled = run.step([(long, pair.prompts[0][-1:]), (short, pair.prompts[1])])

    pair.check([decoded, prefilled], [pair.truths[0][-1:], pair.truths[1]])


def test_fp32_logits_of_output_rows_and_of_what_follows_them(pair: Pair) -> None:
    run = pair.run()
    sequence, prompt = PagedSequence(), pair.prompts[0]
    batch = run.batch([(sequence, prompt[:-1])])
    output_rows = torch.tensor([2, len(prompt) - 2])

    with torch.inference_mode():
        logits = run.decoder.logits(run.decoder(batch, run.kv, output_rows))
    sequence.num_computed = len(prompt) - 1
    last = run.step([(sequence, prompt[-1:])])

    pair.check([logits, *last], [pair.truths[0][output_rows], pair.truths[0][-1:]])


@pytest.mark.parametrize("column", ["cpu"], indirect=True)
def test_fp32_logits_with_an_adapter_on_every_layer(pair: Pair, tmp_path: Path) -> None:
    run, prompts, plain_truth = pair.run(), [pair.prompts[3], pair.prompts[1]], pair.truths[1]
    adapters = [random_adapter(pair.model, rank=3 + seed, seed=seed) for seed in range(2)]
    run.decoder.enable_adapters(3, 8)
    for slot, adapter in enumerate(adapters):
        architecture = type(pair.model).__name__
        run.decoder.set_adapter(
            2 - slot, run.decoder.prepare_adapter(adapter.loaded(tmp_path / str(slot), run.decoder, architecture))
        )
    truths = []
    for adapter, prompt in zip(adapters, prompts, strict=True):
        with adapted(pair.model, adapter):
            truths.append(truth(pair.model, prompt))

    logits = run.step([(PagedSequence(), prompt) for prompt in (*prompts, prompts[1])], adapter_slots=[2, 1, -1])

    pair.check(logits, [*truths, plain_truth])
    assert (truths[1] - plain_truth).abs().mean() > 0.1


def test_fp32_logits_after_a_prefix_hit(pair: Pair) -> None:
    run = pair.run()
    num_shared = 3 * BLOCK_SIZE
    first = PagedSequence()
    run.step([(first, pair.prompts[0][:num_shared])])
    second = run.fork(first)
    second_prompt = pair.prompts[0][:num_shared] + pair.prompts[1]

    first_logits, second_logits = run.step(
        [(first, pair.prompts[0][num_shared:]), (second, second_prompt[num_shared:])]
    )

    pair.check([first_logits], [pair.truths[0][num_shared:]])
    pair.check([second_logits], [truth(pair.model, second_prompt)[num_shared:]])


def test_bf16_errors_are_within_twice_those_of_transformers(pair: Pair) -> None:
    ours = run_in_chunks(pair.run(torch.bfloat16), pair.prompts, chunk=max(LENGTHS))

    exact = torch.cat(pair.truths)
    num_lowest = len(exact) // (2 if has_experts(pair) else 1)
    our_error, their_error = (
        lowest((torch.cat(rows) - exact).pow(2).mean(-1), num_lowest).sqrt()
        for rows in (ours, pair.reference.rounded_truths)
    )
    divergence = torch.nn.functional.kl_div(
        torch.cat(ours).log_softmax(-1), exact.log_softmax(-1), log_target=True, reduction="none"
    )

    assert our_error <= 2 * their_error
    assert lowest(divergence.sum(-1), num_lowest) <= 1e-3


@pytest.mark.parametrize("column", ["cpu"], indirect=True)
def test_bf16_decode_steps_are_recorded(pair: Pair) -> None:
    """Torch computes nothing in the layers of any family (else the log says what); a replay gives the same numbers."""
    run, other, prompt = pair.run(torch.bfloat16), pair.run(torch.bfloat16), pair.prompts[0]
    linears = [module for module in run.decoder.modules() if isinstance(module, Linear)]
    has_kernels = all(linear.in_features % 16 == 0 for linear in linears)
    with torch.inference_mode():
        sequence = PagedSequence()
        run.step([(sequence, prompt[:-3])])
        other.step([(PagedSequence(), prompt[:-3])])  # the same blocks
        recorded = recorded_on(other)
        for token in prompt[-3:]:
            batch = run.batch([(sequence, [token])])
            pending = recorded.launch(in_buffers(batch, recorded.buffers), None)
            assert torch.equal(pending.hidden, run.decoder(batch, run.kv))
            sequence.num_computed += 1

    assert recorded.recorded_sizes == ([(1, 1)] if has_kernels else [])


def has_experts(pair: Pair) -> bool:
    """Whether there may be rows in which rounding decides between two experts, here or in transformers.

    Such a row differs from there on, and so does what later rows of its sequence see of it.
    """
    return any(layer.experts is not None for layer in pair.run(torch.bfloat16).decoder.spec.layers)


def lowest(of_rows: torch.Tensor, count: int) -> torch.Tensor:
    """The mean of the lowest `count`."""
    return of_rows.sort().values[:count].mean()
