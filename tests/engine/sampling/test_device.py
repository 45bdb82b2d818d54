"""DeviceSampler: the tokens and log probabilities of Sampler, without a read of the device before the last."""

import math
import random
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from engine.protocol import EngineRequest, SamplingParams
from engine.protocol.sampling_params import DryParams, MirostatParams, XtcParams
from engine.sampling.device import DeviceSampler
from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.rows import LogitsRow
from engine.sampling.sampler import Sampler
from engine.scheduling.plan import RowResult
from engine.scheduling.sequence import Sequence
from models.kernels.torch.logits import LogitOperations
from tests.helpers.engines import make_request
from tests.helpers.gpu.fake_device import NoSynchronization, fake_gpu
from tests.helpers.grammars import GRAMMARS, encode, sequence_grammar
from tests.helpers.ledger import EOS_ID, VOCAB_SIZE
from tests.helpers.logits_rows import rows_of

CPU = torch.device("cpu")
VOCAB = 150
BATCHES, ROWS = 20, 250  # each with two sets of logits


def make_row(name: str, sampling: SamplingParams, tokens: list[int], num_prompt: int, seed: int = 0) -> LogitsRow:
    request = EngineRequest(id=name, prompt_ids=tokens[:num_prompt], sampling=sampling, arrival_s=0.0)
    sequence = Sequence(request=request, seed=seed, tokens=tokens, num_prompt=num_prompt, tables=[])
    return rows_of(sequence)[0]


def random_row(rng: random.Random, name: str, *, has_logprobs: bool = True) -> LogitsRow:
    def maybe(value: float, otherwise: float = 0.0) -> float:
        return value if rng.random() < 0.4 else otherwise

    sampling = SamplingParams(
        max_tokens=1,
        temperature=rng.choice([0.0, 0.3, 1.0, 1.7]),
        top_k=int(maybe(rng.choice([1, 2, 40, VOCAB, 10_000]))),
        top_p=maybe(rng.choice([0.05, 0.5, 0.9, 0.999]), 1.0),
        min_p=maybe(rng.choice([0.02, 0.3, 1.0])),
        repetition_penalty=maybe(rng.choice([0.8, 1.3]), 1.0),
        presence_penalty=maybe(rng.uniform(-2.0, 2.0)),
        frequency_penalty=maybe(rng.uniform(-2.0, 2.0)),
        logit_bias={rng.randrange(VOCAB): rng.uniform(-9.0, 9.0) for _ in range(int(maybe(3.0)))},
        logprobs=int(maybe(rng.choice([0, 1, 5]))) if has_logprobs and rng.random() < 0.3 else None,
    )
    tokens = [rng.randrange(VOCAB) for _ in range(rng.randint(2, 20))]
    return make_row(name, sampling, tokens, rng.randint(1, len(tokens)), rng.randrange(1 << 40))


def random_logits(rng: random.Random, num_rows: int) -> torch.Tensor:
    """Flat and peaked rows, and rows of few different values, so that there are ties."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    logits = torch.randn(num_rows, VOCAB, generator=generator) * torch.rand(num_rows, 1, generator=generator) * 9
    logits[::7] = logits[::7].round()
    return logits


def test_ten_thousand_rows_have_the_tokens_of_the_host() -> None:
    rng = random.Random(0)
    host, device = Sampler([2]), DeviceSampler(VOCAB, CPU, LogitOperations())
    seen: set[int] = set()
    for batch in range(BATCHES):
        rows = [random_row(rng, f"{batch}-{number}", has_logprobs=batch % 4 == 0) for number in range(ROWS)]
        for _ in range(2):
            logits = random_logits(rng, ROWS)
            pending = device.launch(logits, rows)
            assert pending is not None
            results = pending.read()
            expected = host.sample(logits, rows)
            assert [result.token_ids for result in results] == [result.token_ids for result in expected]
            check_logprobs(results, expected)
            seen.update(result.token_ids[0] for result in results)
    assert len(seen) == VOCAB


def check_logprobs(results: list[RowResult], expected: list[RowResult]) -> None:
    for result, other in zip(results, expected, strict=True):
        assert (result.logprobs is None) == (other.logprobs is None)
        for one, same in zip(result.logprobs or (), other.logprobs or (), strict=True):
            assert one.token_id == same.token_id
            assert one.logprob == pytest.approx(same.logprob, abs=1e-4)
            assert [token for token, _ in one.top] == [token for token, _ in same.top]
            assert [value for _, value in one.top] == pytest.approx([value for _, value in same.top], abs=1e-4)


def grammar_rows(grammar: str, **sampling: Any) -> list[LogitsRow]:
    request = make_request("g", [1, 2], max_tokens=9, seed=5, **sampling)
    sequence = Sequence(request, seed=5, tokens=[1, 2, 3], num_prompt=2, grammar=sequence_grammar(grammar))
    return rows_of(sequence)


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0.0}, {"temperature": 1.5, "top_p": 0.8}, {"temperature": 1.0, "logprobs": 2, "top_k": 5000}],
)
def test_rows_with_grammars_have_the_tokens_of_the_host(sampling: dict[str, Any]) -> None:
    """Beside rows without; a grammar that allows one token has a mask, too."""
    host, device = Sampler([EOS_ID]), DeviceSampler(VOCAB_SIZE, CPU, LogitOperations())
    grammars = GrammarMasks(LogitOperations())
    plain = make_row("a", SamplingParams(max_tokens=1, temperature=1.0), [1, 2], 1)
    rows = [*grammar_rows(GRAMMARS[3], **sampling), plain, *grammar_rows(GRAMMARS[0], **sampling)]
    for seed in range(20):
        logits = torch.randn(3, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 4
        pending = grammars.start(rows, VOCAB_SIZE, needs_all=True)
        tokens = device.launch(logits, rows, lambda pending=pending: grammars.take(pending))  # type: ignore[misc]
        assert tokens is not None
        results, expected = tokens.read(), host.sample(logits.clone(), rows)
        assert [each.token_ids for each in results] == [each.token_ids for each in expected]
        check_logprobs(results, expected)
        assert grammars.take_tally()[0] == 2


def test_a_row_without_a_token_left_is_refused_as_by_the_host() -> None:
    rows = grammar_rows(GRAMMARS[0], temperature=0.0)
    allowed = rows[0].grammar.forced_next  # type: ignore[union-attr]
    rows[0].sampling.logit_bias[allowed] = -math.inf
    logits = torch.zeros(1, VOCAB_SIZE)
    grammars = GrammarMasks(LogitOperations())
    pending = grammars.start(rows, VOCAB_SIZE, needs_all=True)
    tokens = DeviceSampler(VOCAB_SIZE, CPU, LogitOperations()).launch(logits, rows, lambda: grammars.take(pending))
    assert tokens is not None
    [result] = tokens.read()
    assert [result] == Sampler([EOS_ID]).sample(logits, rows)
    assert result.refused_param == "the grammar"


def drafted_rows(name: str, sampling: SamplingParams, draft: list[int], grammar: str | None = None) -> list[LogitsRow]:
    request = EngineRequest(id=name, prompt_ids=[1, 2], sampling=sampling, arrival_s=0.0)
    sequence = Sequence(request, seed=7, tokens=[1, 2, 3], num_prompt=2, tables=[], draft=draft)
    if grammar is not None:
        sequence.grammar = sequence_grammar(grammar)
    return rows_of(sequence)


def test_drafts_are_verified_as_by_the_host_whatever_is_accepted() -> None:
    rng = random.Random(4)
    host, device = Sampler([2]), DeviceSampler(VOCAB, CPU, LogitOperations())
    lengths: set[int] = set()
    for number in range(60):
        sampling = SamplingParams(
            max_tokens=9,
            temperature=rng.choice([0.0, 1.0]),
            top_p=rng.choice([1.0, 0.7]),
            logit_bias=rng.choice([{}, {3: 4.0}]),
            logprobs=rng.choice([None, 2]),
        )
        logits = random_logits(rng, 6)
        plain = make_row(f"plain-{number}", SamplingParams(max_tokens=1, temperature=1.0), [1, 2], 1)
        draft = rng.choices(range(VOCAB), k=4)
        for _ in range(5):  # each time one token more is right
            rows = [*drafted_rows(f"drafted-{number}", sampling, list(draft)), plain]
            pending = device.launch(logits, rows)
            assert pending is not None
            assert pending.must_be_read
            results, expected = pending.read(), host.sample(logits.clone(), rows)
            assert [each.token_ids for each in results] == [each.token_ids for each in expected]
            check_logprobs(results, expected)
            accepted = results[0].token_ids
            lengths.add(len(accepted))
            draft[: len(accepted)] = accepted[: len(draft)]
            device.release(f"drafted-{number}")
            host.release(f"drafted-{number}")
    assert lengths == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("spoiled", range(3))
def test_a_row_that_is_not_finite_matters_only_if_its_token_is_accepted(spoiled: int) -> None:
    logits = random_logits(random.Random(1), 3)
    best = logits.argmax(-1).tolist()
    rows = drafted_rows("a", SamplingParams(max_tokens=9, temperature=0.0), [best[0], best[1] + 1])
    logits[spoiled] = math.nan
    pending = DeviceSampler(VOCAB, CPU, LogitOperations()).launch(logits, rows)
    assert pending is not None
    results = pending.read()
    assert results == Sampler([2]).sample(logits, rows)
    assert results[0].is_corrupted == (spoiled < 2)


def test_drafts_with_a_grammar_are_verified_as_by_the_host() -> None:
    host, device = Sampler([EOS_ID]), DeviceSampler(VOCAB_SIZE, CPU, LogitOperations())
    grammars = GrammarMasks(LogitOperations())
    sampling = SamplingParams(max_tokens=9, temperature=1.0)
    for draft in (encode("01")[:2], encode("0x")[:2]):
        rows = drafted_rows("a", sampling, list(draft), GRAMMARS[3])
        for seed in range(10):
            logits = torch.randn(len(rows), VOCAB_SIZE, generator=torch.Generator().manual_seed(seed))
            logits[0, draft[0]] += 20.0
            pending = grammars.start(rows, VOCAB_SIZE, needs_all=True)
            tokens = device.launch(logits, rows, lambda pending=pending: grammars.take(pending))  # type: ignore[misc]
            assert tokens is not None
            assert tokens.read() == host.sample(logits.clone(), rows)


def test_drafts_that_were_drawn_or_have_penalties_are_left_to_the_host() -> None:
    device, logits = DeviceSampler(VOCAB, CPU, LogitOperations()), torch.zeros(2, VOCAB)
    rows = drafted_rows("a", SamplingParams(max_tokens=9), [5])
    assert device.launch(logits, rows, drawn_drafts={"a": logits}) is None
    assert device.launch(logits, rows, drawn_drafts={"b": logits}) is not None
    rows = drafted_rows("a", SamplingParams(max_tokens=9, presence_penalty=0.5), [5])
    assert device.launch(logits, rows) is None


def test_masks_are_left_to_the_host_with_a_row_that_it_samples() -> None:
    rows = [
        *grammar_rows(GRAMMARS[3], temperature=0.0),
        make_row("a", SamplingParams(max_tokens=1, typical_p=0.5), [1], 1),
    ]
    grammars = GrammarMasks(LogitOperations())
    pending = grammars.start(rows, VOCAB_SIZE, needs_all=True)
    device = DeviceSampler(VOCAB_SIZE, CPU, LogitOperations())
    assert device.launch(torch.zeros(2, VOCAB_SIZE), rows, lambda: grammars.take(pending)) is None
    assert grammars.apply(torch.zeros(2, VOCAB_SIZE), rows, ahead=pending) == [0]


def test_penalties_count_the_tokens_of_a_growing_sequence() -> None:
    """Also after a release, as when another request has the id."""
    sampling = SamplingParams(max_tokens=9, temperature=1.0, repetition_penalty=1.5, frequency_penalty=1.0)
    host, device = Sampler([2]), DeviceSampler(VOCAB, CPU, LogitOperations())
    for seed in range(2):
        tokens = [7, 8, 7]
        for step in range(30):
            row = make_row("a", sampling, list(tokens), 2, seed)
            logits = random_logits(random.Random(step), 1)
            pending = device.launch(logits, [row])
            assert pending is not None
            assert pending.read() == host.sample(logits, [row])
            tokens.append(random.Random(step + seed).choice([7, 8, 9]))
        device.release("a")
        host.release("a")


@pytest.mark.parametrize("parameters", [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}])
@pytest.mark.parametrize("spoiled", [[3], range(VOCAB)], ids=["one", "all"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_fails_alone(number: float, spoiled: list[int], parameters: dict[str, float]) -> None:
    """As by the host. The token that a following step would look up is one, whatever it is."""
    rows = [make_row(name, SamplingParams(max_tokens=1, **parameters), [1, 2], 1) for name in "abc"]  # type: ignore[arg-type]
    logits = random_logits(random.Random(0), 3)
    logits[1, spoiled] = number
    pending = DeviceSampler(VOCAB, CPU, LogitOperations()).launch(logits, rows)
    assert pending is not None
    assert ((pending.ids >= 0) & (pending.ids < VOCAB)).all()
    assert pending.read() == Sampler([2]).sample(logits, rows)


@pytest.mark.parametrize(
    "parameters",
    [
        {"typical_p": 0.5},
        {"top_n_sigma": 1.0},
        {"xtc": XtcParams(probability=0.5, threshold=0.1)},
        {"mirostat": MirostatParams(version=2, tau=3.0)},
        {"dry": DryParams(multiplier=1.0)},
        {"bad_words": ((1,),)},
        {"allowed_token_ids": (1,)},
        {"min_tokens": 1},
        {"logprobs": 1, "logprob_token_ids": (1,)},
    ],
    ids=lambda parameters: next(iter(parameters)),
)
def test_other_parameters_are_left_to_the_host(parameters: dict[str, object]) -> None:
    row = make_row("a", SamplingParams(max_tokens=1, **parameters), [1, 2], 1)  # type: ignore[arg-type]
    assert DeviceSampler(VOCAB, CPU, LogitOperations()).launch(torch.zeros(1, VOCAB), [row]) is None


def test_nothing_waits_for_the_device() -> None:
    rng = random.Random(1)
    rows = [random_row(rng, str(number)) for number in range(40)]
    with fake_gpu() as gpu:
        device = DeviceSampler(VOCAB, gpu.device, LogitOperations())
        with unset_fake_temporarily():
            inputs = device.inputs(rows)
            logits = random_logits(rng, len(rows))
            masks = torch.tensor([[3, *[-1] * 5], [7, *[9] * 5]], dtype=torch.int32)
        inputs = inputs._replace(numbers=gpu.copy(inputs.numbers), masks=gpu.copy(masks))
        logits = gpu.copy(logits)
        with NoSynchronization():
            ids, numbers = device.sampled(logits, inputs)
    assert ids.shape == (40,)
    assert numbers.shape == (40, 4 + 2 * (inputs.num_top or 0))
