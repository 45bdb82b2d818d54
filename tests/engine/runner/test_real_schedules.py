"""The master property on a real model in fp32: a request's tokens are the same under every schedule."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import PretrainedConfig

from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest, RequestOutput, Resumption, SamplingParams
from engine.protocol.sampling_params import DryParams, MirostatParams, XtcParams
from engine.runner.kv_groups import kv_groups
from engine.runner.runner import TorchRunner
from engine.scheduling.kv.groups import peak_blocks
from models.attention.reference import ReferenceAttention
from models.decoder import Decoder
from models.loaded_model import LoadedModel
from tests.helpers.checkpoints import (
    VOCAB_SIZE,
    llama_config,
    mistral_config,
    qwen2_config,
    random_model,
)
from tests.helpers.engines import make_prompt, make_request
from tests.helpers.hiding import HidingRunner
from tests.helpers.loaded import load_random
from tests.helpers.local_client import LocalClient
from tests.helpers.mixed_kv import MixedKV
from tests.models.families.deepseek_v32_variants import DEEPSEEK_V32_VARIANTS
from tests.models.families.deepseek_variants import deepseek_v3
from tests.models.families.recurrent_variants import lfm2, qwen35
from tests.models.families.rwkv7_variants import rwkv7
from tests.models.families.state_space_variants import falcon_h1, granite_hybrid, mamba
from tests.models.families.variants import llama4

BLOCK_SIZE = 4
_POISON = VOCAB_SIZE - 1


MODELS: dict[str, Callable[[], PretrainedConfig]] = {
    "full attention": llama_config,
    "windows": mistral_config,
    "full attention and windows": lambda: qwen2_config(
        num_hidden_layers=3, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "latent attention and experts": deepseek_v3,
    "chosen positions": DEEPSEEK_V32_VARIANTS["glm-5.2"],
    "chunks": llama4,
    "short convolutions": lambda: lfm2(tie_word_embeddings=False),
    "gated delta rule": qwen35,
    "state spaces": granite_hybrid,
    "a state space beside attention": falcon_h1,
    "token shifts before matrices and MLP": rwkv7,
    "selective scans without attention": lambda: mamba(tie_word_embeddings=False),
}


BACKENDS = {"reference": ReferenceAttention, "mixed": MixedKV, "preferred": lambda: None}
CODES = {"full attention": torch.int8}  # activations in fp32; test_kv_dtypes.py has those in bf16


@pytest.fixture(
    scope="module",
    params=[
        *(("full attention", "reference"), ("full attention and windows", "mixed"), ("gated delta rule", "mixed")),
        *((name, "preferred") for name in MODELS),
        *((name, "codes") for name in CODES),
    ],
    ids=str,
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    name, backend_name = request.param
    model_folder = tmp_path_factory.mktemp("model")
    random_model(MODELS[name]()).save_pretrained(model_folder)
    if backend_name == "codes":
        return load_random(model_folder, kv_dtype=CODES[name])
    return load_random(model_folder, backend=BACKENDS[backend_name]())


def _run(
    model: LoadedModel, requests: list[EngineRequest], *, has_small_pool: bool = False, **options: object
) -> tuple[dict[str, RequestOutput], LocalClient]:
    client = _client(model, has_small_pool=has_small_pool, **options)
    return client.generate(requests), client


def _client(
    model: LoadedModel, *, has_small_pool: bool = False, is_hidden: bool = False, **options: object
) -> LocalClient:
    """is_hidden: sequences advance while a step is pending."""
    options = {"max_num_batched_tokens": 256, **options}
    config = EngineConfig(block_size=BLOCK_SIZE, max_model_len=64, check_invariants=True, **options)  # type: ignore[arg-type]
    num_blocks = peak_blocks(kv_groups(model.cache_layout, BLOCK_SIZE), 64) if has_small_pool else 128
    num_states = 3 if has_small_pool else 30
    runner = TorchRunner(model, num_blocks=num_blocks, block_size=BLOCK_SIZE, num_states=num_states)
    used = HidingRunner(runner) if is_hidden else runner
    return LocalClient(Engine(config, used, num_blocks=num_blocks, num_states=num_states, eos_token_ids=[2]))


def _requests() -> list[EngineRequest]:
    """Greedy and sampled, with every step of the sampler and log probabilities, some sharing a prefix."""
    shared = make_prompt(13)
    prompts = [[token % VOCAB_SIZE for token in (*shared[: 3 * n], *make_prompt(2 + n, seed=n))] for n in range(10)]
    parameters: list[dict[str, object]] = [
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_p": 0.9},
        {
            "temperature": 1.2,
            "top_k": 20,
            "repetition_penalty": 1.3,
            "allowed_token_ids": tuple(range(0, VOCAB_SIZE, 2)),
        },
        {"temperature": 0.0, "frequency_penalty": 0.5, "presence_penalty": 0.2},
        {"temperature": 0.0, "min_tokens": 10, "dry": DryParams(multiplier=2.0, allowed_length=1, window=12)},
        {"temperature": 1.0, "min_p": 0.1, "logit_bias": {5: 3.0}},
        {"temperature": 0.0, "prompt_logprobs": 2},
        {"temperature": 1.1, "top_n_sigma": 1.5, "typical_p": 0.9, "xtc": XtcParams(probability=0.5, threshold=0.05)},
        {
            "temperature": 1.0,
            "mirostat": MirostatParams(version=2, tau=3.0),
            "bad_words": tuple((n,) for n in range(9)),
        },
    ]
    return [
        make_request(f"r{n}", prompt, max_tokens=20, seed=n, logprobs=3, **parameters[n])
        for n, prompt in enumerate(prompts)
    ]


SCHEDULES: dict[str, dict[str, Any]] = {
    "batched": {},
    "chunks of 3": {"max_num_batched_tokens": 3, "max_num_seqs": 3},
    "chunks of a block and one": {"long_prefill_token_threshold": BLOCK_SIZE + 1},
    "without prefix cache": {"enable_prefix_caching": False},
    "small pool": {"has_small_pool": True},
    "two at once": {"max_num_seqs": 2},
    "sequences that advance meanwhile": {"is_hidden": True, "max_num_batched_tokens": 7, "max_num_seqs": 4},
}


@pytest.fixture(scope="module")
def alone(model: LoadedModel) -> dict[str, RequestOutput]:
    """The answer to each request by an engine that has no other."""
    return {request.id: _run(model, [request])[0][request.id] for request in _requests()}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_tokens_are_the_same_under_every_schedule(
    model: LoadedModel, alone: dict[str, RequestOutput], schedule: str
) -> None:
    is_rounded = model.compute.backend.name == "mixed" or model.compute.kv_dtype != model.dtype
    tolerance = 0.02 if is_rounded else 1e-3
    together, client = _run(model, _requests(), **SCHEDULES[schedule])
    if schedule == "small pool" and model.cache_layout.block_bytes(BLOCK_SIZE):  # a sequence needs one state, not more
        assert sum(stats.preemptions for stats in client.steps) > 0
    for name, expected in alone.items():
        output = together[name]
        assert output.new_ids == expected.new_ids, name
        assert output.finish_reason == expected.finish_reason
        assert output.logprobs is not None
        assert expected.logprobs is not None
        for ours, theirs in zip(output.logprobs, expected.logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=tolerance)


def test_another_engine_goes_on_with_the_same_tokens(model: LoadedModel) -> None:
    """From another place in each, with every step of the sampler that looks at the tokens before."""
    requests = [request for request in _requests() if request.sampling.mirostat is None]
    whole, _ = _run(model, requests)
    parts = {request.id: whole[request.id].new_ids[: 1 + 2 * n] for n, request in enumerate(requests)}
    resumed = [
        msgspec.structs.replace(
            request,
            sampling=msgspec.structs.replace(request.sampling, prompt_logprobs=None),
            resumption=Resumption(output_ids=parts[request.id], num_cached_tokens=0),
        )
        for request in requests
        if len(parts[request.id]) < len(whole[request.id].new_ids)
    ]
    assert len(resumed) > 4
    rest, _ = _run(model, resumed, max_num_batched_tokens=16, max_num_seqs=16)
    for request in resumed:
        assert parts[request.id] + rest[request.id].new_ids == whole[request.id].new_ids, request.id
        assert rest[request.id].finish_reason == whole[request.id].finish_reason


def test_a_step_reports_its_progress_at_each_layer(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And between parts of long work after them: the watchdog takes silence for a hang."""
    calls: list[bool] = []
    monkeypatch.setattr(model.decoder, "on_progress", lambda: calls.append(True))
    _run(model, [make_request("a", [1] * 20, max_tokens=0, prompt_logprobs=0)])
    assert isinstance(model.decoder, Decoder)
    assert len(calls) == len(model.decoder.layers) + 1


def test_prompt_logprobs_agree_with_those_of_the_same_tokens_generated(model: LoadedModel) -> None:
    prompt = [token % VOCAB_SIZE for token in make_prompt(9)]
    generated = _run(model, [make_request("a", prompt, max_tokens=12, temperature=0.0, logprobs=0)])[0]["a"]
    replay = make_request("b", prompt + generated.new_ids, max_tokens=0, temperature=0.0, prompt_logprobs=0)
    forced = _run(model, [replay], max_num_batched_tokens=5, max_num_seqs=1)[0]["b"]
    assert forced.new_ids == []
    assert forced.prompt_logprobs is not None
    assert generated.logprobs is not None
    assert len(forced.prompt_logprobs) == len(replay.prompt_ids)
    assert forced.prompt_logprobs[0] is None
    for ours, theirs in zip(forced.prompt_logprobs[len(prompt) :], generated.logprobs, strict=True):
        assert ours is not None
        assert ours.token_id == theirs.token_id
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-3)


@pytest.fixture
def poison(model: LoadedModel) -> Iterator[int]:
    """A token whose embedding is not finite until the test has ended; with it all that is computed from it."""
    embeddings = model.decoder.embed.weight
    original = embeddings[_POISON].clone()
    embeddings[_POISON] = torch.nan
    yield _POISON
    embeddings[_POISON] = original


def test_a_row_that_is_not_finite_ends_its_request_and_no_other(model: LoadedModel, poison: int) -> None:
    requests = [r for r in _requests() if poison not in r.prompt_ids][:3]
    banned = [msgspec.structs.replace(r, sampling=_without(r.sampling, poison)) for r in requests]
    expected, _ = _run(model, banned)
    bad = [
        make_request("bad", [poison, *range(3, 15)], temperature=0.0),
        make_request("scored", [5, poison, 7, 8], temperature=0.0, max_tokens=0, prompt_logprobs=1),
    ]
    client = _client(model, has_small_pool=True)
    outputs = client.generate([*bad, *banned])
    for each in bad:
        assert "not finite" in (outputs.pop(each.id).error or "")
    assert {name: output.new_ids for name, output in outputs.items()} == {
        name: output.new_ids for name, output in expected.items()
    }
    assert sum(stats.corrupted for stats in client.steps) == len(bad)
    # Their blocks are used again, and nothing of them is found.
    again = client.generate(msgspec.structs.replace(each, id=f"{each.id} again") for each in (*bad, *banned))
    for each in bad:
        assert again[f"{each.id} again"].num_cached_tokens == 0
    assert all(again[f"{r.id} again"].new_ids == expected[r.id].new_ids for r in banned)


def test_a_state_that_is_not_finite_ends_its_request_with_the_chunk_that_wrote_it(
    model: LoadedModel, poison: int
) -> None:
    """Its logits come with the last chunk, and a state may be cached before."""
    client = _client(model, max_num_batched_tokens=8, max_num_seqs=1)
    request = make_request("bad", [poison, *range(3, 23)], temperature=0.0)

    output = client.generate([request])["bad"]

    assert "not finite" in (output.error or "")
    assert sum(stats.prefill_tokens for stats in client.steps) == (8 if model.cache_layout.has_states else 21)
    assert client.steps[-1].states_cached == client.steps[-1].states_used == 0


def test_a_state_that_overflows_ends_its_request(tmp_path: Path) -> None:
    random_model(granite_hybrid()).save_pretrained(tmp_path)
    model = load_random(tmp_path)
    model.decoder.layers[0].attn.dt_bias.fill_(3e38)
    client = _client(model, max_num_batched_tokens=8, max_num_seqs=1)

    output = client.generate([make_request("bad", list(range(3, 23)), temperature=0.0)])["bad"]

    assert "not finite" in (output.error or "")
    assert sum(stats.prefill_tokens for stats in client.steps) == 8


def _without(sampling: SamplingParams, token_id: int) -> SamplingParams:
    return msgspec.structs.replace(sampling, logit_bias={**sampling.logit_bias, token_id: -100.0})
