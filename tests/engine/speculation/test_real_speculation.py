"""Speculation on real models: greedy outputs equal, sampled ones of one distribution, for every proposer."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from engine.config import DraftSampling, EngineConfig
from engine.draft_model.model import DraftModel
from engine.draft_model.runner import TorchDraftRunner
from engine.engine import Engine
from engine.grammar.compiler import GrammarCompiler
from engine.grammar.vocabulary import TokenizerSource
from engine.protocol import AuditVerdict, EngineRequest, RequestOutput, StepStats, ThinkingBudget
from engine.protocol.sampling_params import DryParams, MirostatParams, XtcParams
from engine.runner.runner import TorchRunner
from engine.scheduling import scheduler
from engine.speculation.audit import compare_outputs
from engine.speculation.ngram import NgramProposer
from models.loaded_model import LoadedModel
from tests.helpers.checkpoints import VOCAB_SIZE, llama_config, random_model
from tests.helpers.drafting import AlwaysFull, Unsure
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.grammars import ledger_source
from tests.helpers.hiding import HidingRunner
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient
from tests.helpers.statistics import goodness_p, significant, two_sample_p
from tests.models.families.classic_variants import gemma2
from tests.models.families.recurrent_variants import lfm2, qwen35
from tests.models.families.state_space_variants import falcon_h1

BLOCK_SIZE = 4


@dataclass(frozen=True)
class Pair:
    target: LoadedModel
    draft: LoadedModel


def _noisy_pair(folder: Path, dtype: torch.dtype) -> Pair:
    """A tiny target, and as its draft the same model with noise in its weights: they agree often, not always."""
    target = random_model(llama_config())
    target.save_pretrained(folder / "target")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in target.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.08 * parameter.std() * noise if parameter.dim() == 2 else 0.0
    target.save_pretrained(folder / "draft")
    return Pair(load_random(folder / "target", dtype), load_random(folder / "draft", dtype))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _noisy_pair(tmp_path_factory.mktemp("fp32"), torch.float32)


@pytest.fixture(scope="module")
def bf16_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return _noisy_pair(tmp_path_factory.mktemp("bf16"), torch.bfloat16)


@pytest.fixture(scope="module", params=[lfm2, qwen35, falcon_h1])
def recurrent_pair(request: pytest.FixtureRequest, pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A target with recurrent layers, and a draft that knows nothing of it."""
    folder = tmp_path_factory.mktemp("recurrent")
    random_model(request.param(tie_word_embeddings=False)).save_pretrained(folder)
    return Pair(load_random(folder), pair.draft)


def _client(
    pair: Pair,
    kind: str,
    *,
    max_tokens: int = 4,
    num_blocks: int = 160,
    num_states: int = 40,
    grammars: GrammarCompiler | None = None,
    **options: int,
) -> LocalClient:
    """kind: "none", "ngram", "prediction", "model" or "unsure model". Drafts are as long as possible, whatever they
    cost, but an unsure model's end where it is unsure; models draw them at random for requests without a seed."""
    options = {"max_model_len": 160, "max_num_batched_tokens": 256, "max_num_seqs": 256, **options}
    config = EngineConfig(block_size=BLOCK_SIZE, check_invariants=num_blocks == 160, **options)  # type: ignore[arg-type]
    drafter = None
    if kind.endswith("model"):
        runner = TorchDraftRunner(
            pair.draft,
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            target_vocab_size=pair.target.vocab_size,
            eos_token_ids=[2],
            sampling=DraftSampling.SAMPLED,
        )
        drafter = DraftModel(runner, block_size=BLOCK_SIZE, max_len=256)
    speculator = (Unsure if kind == "unsure model" else AlwaysFull)(
        0 if kind == "none" else max_tokens, lookups=[NgramProposer(1, 3)] if kind == "ngram" else [], drafter=drafter
    )
    target_runner = TorchRunner(
        pair.target,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        num_states=num_states,
        draft_probs=None if drafter is None else drafter.probabilities,
    )
    engine = Engine(
        config,
        HidingRunner(target_runner),  # drafts are verified by what was pending
        num_blocks=num_blocks,
        num_states=num_states,
        eos_token_ids=[2],
        speculator=speculator,
        grammars=grammars,
    )
    return LocalClient(engine)


def _requests(kind: str, predictions: dict[str, list[int]] | None = None) -> list[EngineRequest]:
    """Greedy and, with drafts without chance, sampled: with every step of the sampler and log probabilities."""
    parameters: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 0.0, "logprobs": 2},
        {"temperature": 0.0, "frequency_penalty": 0.5, "presence_penalty": 0.2, "repetition_penalty": 1.2},
        {"temperature": 0.0, "min_tokens": 12, "logit_bias": {5: 2.0}},
        {"temperature": 0.8, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 5, "presence_penalty": 0.5},
        {"temperature": 0.7, "min_p": 0.1, "logprobs": 1},
        {"temperature": 0.7, "thinking": ThinkingBudget(11, None, 3, is_open=True)},
        {"temperature": 0.0, "dry": DryParams(multiplier=1.0, allowed_length=3), "bad_words": ((5,), (7, 8), (9, 9))},
        {"temperature": 0.7, "top_n_sigma": 2.0, "typical_p": 0.9},
        {"temperature": 0.7, "xtc": XtcParams(probability=0.3, threshold=0.1), "logprobs": 1},
        {"temperature": 0.7, "mirostat": MirostatParams(version=1, tau=2.0), "allowed_token_ids": tuple(range(2, 90))},
        {"temperature": 0.7, "mirostat": MirostatParams(version=2, tau=2.0, eta=0.5)},
    ]
    requests = []
    for n, sampling in enumerate(parameters):
        words = [token % VOCAB_SIZE for token in make_prompt(5 + n, seed=n)]
        request = make_request(f"r{n}", words * 3, max_tokens=30, seed=n, **sampling)
        if kind == "prediction":
            assert predictions is not None
            request = _predicting(request, predictions[request.id])
        requests.append(request)
    return requests


def _predicting(request: EngineRequest, text: list[int]) -> EngineRequest:
    """With a prediction that is nearly `text`."""
    return msgspec.structs.replace(request, prediction_ids=[*text[:9], 7, *text[10:20], *text[22:]])


@pytest.fixture(scope="module")
def plain(pair: Pair) -> dict[str, RequestOutput]:
    """Each request alone and without drafts."""
    return {r.id: _client(pair, "none").generate([r])[r.id] for r in _requests("none")}


@pytest.mark.parametrize("kind", ["ngram", "prediction", "model", "unsure model"])
@pytest.mark.parametrize(("max_tokens", "batched"), [(4, False), (1, True), (7, True)])
def test_outputs_in_fp32_are_those_without_drafts(
    pair: Pair, plain: dict[str, RequestOutput], kind: str, max_tokens: int, batched: bool
) -> None:
    requests = _requests(kind, {id: output.new_ids for id, output in plain.items()})
    client = _client(pair, kind, max_tokens=max_tokens)
    outputs = client.generate(requests) if batched else {r.id: client.generate([r])[r.id] for r in requests}
    assert sum(step.accepted_tokens for step in client.steps) > 0
    assert sum(step.accepted_tokens for step in client.steps) < sum(step.draft_tokens for step in client.steps)
    for id, output in outputs.items():
        assert output.new_ids == plain[id].new_ids, id
        for ours, theirs in zip(output.logprobs or [], plain[id].logprobs or [], strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)


@pytest.mark.parametrize(
    "options", [{"max_num_batched_tokens": 16, "max_num_seqs": 5}, {"long_prefill_token_threshold": 5}]
)
def test_drafting_with_a_model_survives_chunks(
    pair: Pair, plain: dict[str, RequestOutput], options: dict[str, int]
) -> None:
    outputs = _client(pair, "model", **options).generate(_requests("model"))
    assert {id: output.new_ids for id, output in outputs.items()} == {id: o.new_ids for id, o in plain.items()}


@pytest.mark.parametrize("num_states", [2, 40])
def test_rejected_drafts_leave_no_trace_in_recurrent_states(recurrent_pair: Pair, num_states: int) -> None:
    expected = {r.id: _client(recurrent_pair, "none").generate([r])[r.id].new_ids for r in _requests("none")}
    for kind in ("prediction", "model"):
        client = _client(recurrent_pair, kind, num_states=num_states)
        outputs = client.generate(_requests(kind, expected))
        accepted, drafted = (
            sum(getattr(step, name) for step in client.steps) for name in ("accepted_tokens", "draft_tokens")
        )
        assert accepted < drafted
        assert accepted > 0 or kind == "model"
        assert {id: output.new_ids for id, output in outputs.items()} == expected, kind


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("kind", ["ngram", "prediction", "model"])
def test_bf16_diverges_from_the_plain_output_only_at_a_near_tie(bf16_pair: Pair, kind: str, batched: bool) -> None:
    """Other numbers of rows round differently; what differs must have been undecided."""
    requests = [
        make_request(
            f"r{n}",
            [t % VOCAB_SIZE for t in make_prompt(6 + n, seed=n)] * 2,
            max_tokens=40,
            temperature=0.0,
            logprobs=5,
        )
        for n in range(12)
    ]
    expected = _client(bf16_pair, "none").generate(requests)
    if kind == "prediction":
        requests = [_predicting(request, expected[request.id].new_ids) for request in requests]
    client = _client(bf16_pair, kind)
    outputs = client.generate(requests) if batched else {r.id: client.generate([r])[r.id] for r in requests}
    assert sum(step.accepted_tokens for step in client.steps) > 50
    for id, output in outputs.items():
        verdict = compare_outputs(output.new_ids, expected[id].new_ids, expected[id].logprobs or [])
        assert verdict is not AuditVerdict.DISAGREEMENT, id


def test_a_model_with_windows_that_drafts_for_itself_is_always_right(tmp_path: Path) -> None:
    random_model(gemma2()).save_pretrained(tmp_path)
    model = load_random(tmp_path)
    assert {spec.sliding_window for spec in model.decoder.spec.attention_specs} == {6, None}
    itself = Pair(model, model)
    client = _client(itself, "model", max_tokens=5)
    requests = [make_request(f"r{n}", make_prompt(3 + 9 * n), max_tokens=40, temperature=0.0) for n in range(4)]
    texts = {id: output.new_ids for id, output in client.generate(requests).items()}
    assert texts == {id: output.new_ids for id, output in _client(itself, "none").generate(requests).items()}
    drafted = sum(step.draft_tokens for step in client.steps)
    assert sum(step.accepted_tokens for step in client.steps) == drafted > 100


NUM_TEXTS = 10_000
Texts = Counter[tuple[int, ...]]
Probabilities = dict[tuple[int, ...], dict[int, float]]
_PROMPT = [9, 8, 7, 6, 5, 4, 3]
_SAMPLED: dict[str, Any] = {"temperature": 1.2, "top_k": 3}


# Two tokens are sampled, one is forced, and one more sampled; texts that match are rare without a mask.
GRAMMAR = json.dumps({"grammars": [{"lark_grammar": 'start: /[abc]{2}/ "true" /[cde01]{8}/'}]})


@pytest.fixture
def grammars() -> Iterator[GrammarCompiler]:
    source = TokenizerSource(ledger_source().tokenizer_json, VOCAB_SIZE, [2])
    compiler = GrammarCompiler(source, timeout_s=60, cache_bytes=1 << 20, on_compiled=lambda: None)
    yield compiler
    compiler.close()


def _sampled_texts(
    client: LocalClient,
    seeds: Iterator[int],
    monkeypatch: pytest.MonkeyPatch,
    **request: Any,
) -> tuple[Texts, list[StepStats]]:
    """Without a seed, with which nothing would be drawn by chance: the engine's own come from `seeds`."""
    monkeypatch.setattr(scheduler.secrets, "randbits", lambda _: next(seeds))
    parameters = {"max_tokens": 4, "seed": None, **_SAMPLED, "ignore_eos": True, **request}
    requests = [make_request(f"s{n}", _PROMPT, **parameters) for n in range(NUM_TEXTS)]
    outputs = client.generate(requests)
    return Counter(tuple(output.new_ids) for output in outputs.values()), client.steps


def _p_values(first: Texts, second: Texts) -> dict[str, float]:
    """Whether each token of the texts has one distribution, given those before it."""
    found = {}
    for length in range(4):
        for prefix in {text[:length] for text in first | second}:
            nexts = [Counter[int](), Counter[int]()]
            for texts, counts in zip((first, second), nexts, strict=True):
                for text, count in texts.items():
                    if text[:length] == prefix:
                        counts[text[length]] += count
            ids = [token_id for token_id in nexts[0] | nexts[1] if nexts[0][token_id] + nexts[1][token_id] >= 20]
            if len(ids) > 1:
                one, two = (np.array([counts[token_id] for token_id in ids]) for counts in nexts)
                found[str(prefix)] = two_sample_p(one, two)
    return found


def _next_probabilities(pair: Pair) -> Probabilities:
    """The model's own probabilities of each token of a text, with the parameters of `_sampled_texts`."""
    client = _client(pair, "none", num_blocks=2000)
    found: Probabilities = {}
    prefixes: list[tuple[int, ...]] = [()]
    for _ in range(4):
        greedy = {"max_tokens": 1, "temperature": 0.0, "logprobs": _SAMPLED["top_k"], "ignore_eos": True}
        requests = [make_request(f"p{prefix}", [*_PROMPT, *prefix], **greedy) for prefix in prefixes]
        outputs = client.generate(requests)
        for prefix, request in zip(prefixes, requests, strict=True):
            assert outputs[request.id].logprobs is not None
            top = outputs[request.id].logprobs[0].top
            weights = {token_id: math.exp(logprob / _SAMPLED["temperature"]) for token_id, logprob in top}
            found[prefix] = {token_id: weight / sum(weights.values()) for token_id, weight in weights.items()}
        prefixes = [(*prefix, token_id) for prefix in prefixes for token_id in found[prefix]]
    return found


def _goodness(texts: Texts, probabilities: Probabilities) -> dict[str, float]:
    """Whether each token of the texts is distributed so, given those before it."""
    p_values = {}
    for prefix, nexts in probabilities.items():
        counts = Counter[int]()
        for text, count in texts.items():
            if text[: len(prefix)] == prefix:
                counts[text[len(prefix)]] += count
        assert counts.keys() <= nexts.keys(), prefix
        if counts.total() >= 20:
            expected = np.array([[probability * counts.total() for probability in nexts.values()]])
            p_values[str(prefix)] = goodness_p(np.array([[counts[token_id] for token_id in nexts]]), expected)
    return p_values


def test_sampled_outputs_with_drafts_have_the_distribution_of_the_model(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 texts of four tokens, among prefix hits and preemptions, against what the model's log probabilities say;
    the second to fourth token are drafted, or follow an accepted draft. A sample against a known distribution tells as
    much as two samples of twice the size each against each other."""
    client = _client(pair, "model", max_tokens=2, num_blocks=90)
    drafted, steps = _sampled_texts(client, itertools.count(), monkeypatch)
    num_accepted, num_drafted = (sum(getattr(s, name) for s in steps) for name in ("accepted_tokens", "draft_tokens"))
    assert 0.2 * num_drafted < num_accepted < 0.95 * num_drafted
    assert sum(step.preemptions for step in steps) > 10
    assert sum(step.prefix_hits for step in steps) > NUM_TEXTS
    probabilities = _next_probabilities(pair)
    p_values = _goodness(drafted, probabilities)
    assert len(p_values) > 20
    assert significant(p_values) == []

    (commonest, _), *_ = drafted.most_common(1)
    biased = Counter({text: round(0.97 * count) for text, count in drafted.items()})  # control: a bias of 3 %
    biased[commonest] += NUM_TEXTS - biased.total()
    assert significant(_goodness(biased, probabilities)) != []


def test_sampled_outputs_have_one_distribution_under_a_grammar(
    pair: Pair, grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampled token by token under masks, as log probabilities need it; and with forced tokens appended, and the others
    drafted by a model under the same masks."""
    seeds = itertools.count()
    alone = _client(pair, "none", num_blocks=2000, grammars=grammars)
    plain, steps = _sampled_texts(alone, seeds, monkeypatch, grammar=GRAMMAR, logprobs=0, top_k=5)
    assert sum(step.forced_tokens for step in steps) == 0
    drafting = _client(pair, "model", max_tokens=2, num_blocks=90, grammars=grammars)
    drafted, steps = _sampled_texts(drafting, seeds, monkeypatch, grammar=GRAMMAR, top_k=5)
    assert sum(step.forced_tokens for step in steps) > 0.3 * NUM_TEXTS  # those that were not drafted
    num_accepted, num_drafted = (sum(getattr(s, name) for s in steps) for name in ("accepted_tokens", "draft_tokens"))
    assert 0.2 * num_drafted < num_accepted < 0.98 * num_drafted
    family = _p_values(plain, drafted)
    assert len(family) > 15
    assert significant(family) == []

    (commonest, _), *_ = plain.most_common(1)
    biased = Counter({text: round(0.97 * count) for text, count in plain.items()})
    biased[commonest] += NUM_TEXTS - biased.total()
    assert significant(_p_values(drafted, biased)) != []


@pytest.mark.parametrize("kind", ["none", "model"])
def test_a_ban_holds_for_tokens_that_a_grammar_forces(pair: Pair, grammars: GrammarCompiler, kind: str) -> None:
    plain = make_request("a", [9, 8, 7], max_tokens=9, temperature=0.0, grammar=GRAMMAR)
    client = _client(pair, kind, grammars=grammars)
    forced = client.generate([plain])["a"].new_ids[2]
    assert sum(step.forced_tokens for step in client.steps) > 0 or kind == "model"  # which drafted it
    banned = make_request("b", [9, 8, 7], max_tokens=9, temperature=0.0, grammar=GRAMMAR, bad_words=((forced,),))
    output = _client(pair, kind, grammars=grammars).generate([banned])["b"]
    assert output.is_refused
    assert output.refused_param == "bad_words"
    assert output.error is not None
    assert "no token is left: bad_words and the grammar rule out" in output.error
