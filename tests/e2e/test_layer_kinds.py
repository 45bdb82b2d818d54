"""Each kind of layer over HTTP: log probabilities are transformers' within 1e-4 in fp32, however steps are made up."""

import functools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import torch

from engine.runner.kv_budget import CacheDemand
from engine.runner.kv_groups import kv_groups
from models.architecture.attention import AttentionSpec
from models.attention.cpu import CpuAttention
from tests.helpers.checkpoints import VOCAB_SIZE, cpu_compute, llama_config
from tests.helpers.engines import make_prompt
from tests.helpers.layer_kinds import LAYER_KINDS, spec_of
from tests.helpers.scored_models import SCORED, ScoredModel
from tests.helpers.server_process import ServerProcess

BLOCK_SIZE = 16
LENGTHS = (150, 37, 9, 1, 22, 90)
MAX_LEN = 256  # of the servers with small pools
# Kinds whose keys and values have two sizes: docs/models.md.
UNITS = {"shared keys and values": 32, "windows of another shape": 32}


class Steps(NamedTuple):
    """How a server makes up its steps. chunk: most tokens of a prompt in one; 0 is no limit."""

    chunk: int
    drafts: str | None = None
    has_small_pool: bool = False


STEPS = {
    "whole": Steps(0),
    "chunks of 1, a draft model": Steps(1, "draft_model"),
    "chunks of 7, lookup": Steps(7, "ngram"),
    "chunks of 64, a small pool": Steps(64, has_small_pool=True),
}
IN_EVERY_RUN = [("state spaces", "chunks of 7, lookup")]  # the others are for `make test-long`
CASES = [
    pytest.param((kind, steps), id=f"{kind}: {steps}", marks=() if (kind, steps) in IN_EVERY_RUN else pytest.mark.long)
    for kind in LAYER_KINDS
    for steps in STEPS
]


@pytest.fixture(scope="module")
def scored_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ScoredModel]:
    """A function that makes a kind's model once; that of no kind is for drafts."""
    drafts = functools.partial(llama_config, num_hidden_layers=1)  # cheaper than every kind: else nothing is drafted
    makers = {**LAYER_KINDS, "drafts": drafts}
    return functools.cache(lambda kind: ScoredModel(makers[kind](), tmp_path_factory.mktemp("model")))


class Served(NamedTuple):
    """A model of transformers, and a server that serves it."""

    kind: str
    steps: Steps
    model: ScoredModel
    server: ServerProcess
    client: httpx.Client
    threads: ThreadPoolExecutor

    def complete(self, prompt: list[int], **fields: Any) -> dict[str, Any]:
        """Return the answer to a completion, greedy unless `fields` say otherwise."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 16, **SCORED, **fields}
        response = self.client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def stream(self, prompt: list[int], after_event: Callable[[int], object], **fields: Any) -> dict[str, Any]:
        """Return the choice of a greedy answer that is streamed, after calls with the number of each event."""
        body = {"model": "tiny", "prompt": prompt, "stream": True, **SCORED, **fields}
        scores: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        num_events = 0
        with self.client.stream("POST", "/v1/completions", json=body) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                num_events += 1
                after_event(num_events)
                for choice in json.loads(line.removeprefix("data: "))["choices"]:
                    for name, values in scores.items():
                        values += choice["logprobs"][name] if choice["logprobs"] else []
        return {"logprobs": scores}

    def check(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send requests at once and compare every choice with transformers; return the answers."""
        answers = list(self.threads.map(lambda request: self.complete(**request), requests))
        for request, answer in zip(requests, answers, strict=True):
            assert len(answer["choices"]) == request.get("n", 1)
            for choice in answer["choices"]:
                with_adapter = request.get("model") == "adapted"
                self.model.check(choice, request["prompt"], with_adapter=with_adapter)
        return answers


@pytest.fixture
def served(
    request: pytest.FixtureRequest, scored_model: Callable[[str], ScoredModel], tmp_path: Path
) -> Iterator[Served]:
    kind, name = request.param
    steps, model = STEPS[name], scored_model(kind)
    options = ["--dtype", "float32", "--threads", "1", "--served-model-name", "tiny", "--check-invariants"]
    options += ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"adapted={model.adapter_folder}"]
    options += ["--long-prefill-token-threshold", str(steps.chunk), "--max-num-batched-tokens", "256"]
    options += ["--max-num-seqs", "4", "--scheduling-policy", "priority", "--kv-cache-memory-bytes", "64MiB"]
    if steps.has_small_pool:
        options[-1:] = [str(small_pool_bytes(kind)), "--max-model-len", str(MAX_LEN)]
    if steps.drafts == "draft_model" and has_attention(kind):
        options += ["--draft-model", str(scored_model("drafts").folder)]
    elif steps.drafts is not None:  # without attention, draft models are refused
        options += ["--speculative-method", "ngram"]
    with (
        ServerProcess(tmp_path / "log", str(model.folder), *options) as server,
        ThreadPoolExecutor(16) as threads,
    ):
        server.wait_ready()
        with server.client() as client:
            yield Served(kind, steps, model, server, client, threads)
        print(server.log)  # noqa: T201 - shown by pytest where a test failed


def has_attention(kind: str) -> bool:
    return any(isinstance(mixer, AttentionSpec) for mixer in spec_of(kind).mixers)


def small_pool_bytes(kind: str) -> int:
    """Return the bytes of a sequence of MAX_LEN tokens, with the states that the memory plan has beside it."""
    layout = cpu_compute(torch.float32, CpuAttention()).cache_layout(spec_of(kind).mixers)
    demand = CacheDemand(kv_groups(layout, BLOCK_SIZE), layout.block_bytes(BLOCK_SIZE), layout.state_bytes)
    return demand.sequence_bytes(MAX_LEN, 3)


def prompt_of(length: int, seed: int) -> list[int]:
    """Return a prompt without control tokens."""
    return [3 + token % (VOCAB_SIZE - 3) for token in make_prompt(length, seed=seed)]


@pytest.mark.parametrize("served", CASES, indirect=True)
def test_log_probabilities_are_those_of_transformers(served: Served) -> None:
    prompts = [prompt_of(length, seed) for seed, length in enumerate(LENGTHS)]
    served.check([{"prompt": prompt, "echo": True} for prompt in prompts])
    check_prefixes_forks_and_adapters(served, prompts)
    if served.steps.drafts:
        check_rejected_drafts(served)
    check_preemptions(served, prompts)
    if not served.steps.has_small_pool:
        check_a_second_turn(served)
    check_a_killed_engine(served, prompts[1])


def check_prefixes_forks_and_adapters(served: Served, prompts: list[list[int]]) -> None:
    known, tail = prompts[0], prompt_of(11, seed=9)
    answers = served.check(
        [
            {"prompt": [*known, *tail]},
            {"prompt": [*known[:50], *tail], "n": 3, "temperature": 1.0, "seed": 4},
            {"prompt": prompts[1], "model": "adapted"},
            {"prompt": [*known, *tail], "model": "adapted", "n": 2, "temperature": 1.0, "seed": 5},
            {"prompt": prompts[3]},
        ]
    )
    assert answers[0]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0 or served.steps.has_small_pool
    assert len({choice["text"] for choice in answers[1]["choices"]}) == 3


def check_rejected_drafts(served: Served) -> None:
    drafted, accepted = (f"headrace_spec_decode_num_{name}_tokens_total" for name in ("draft", "accepted"))
    for seed in range(20):
        served.check([{"prompt": prompt_of(9, seed) * 3, "max_tokens": 40}])
        if served.server.metric(drafted) > served.server.metric(accepted):
            return
    raise AssertionError("no draft was rejected")


def check_preemptions(served: Served, prompts: list[list[int]]) -> None:
    """Requests of a better priority come while as many others run as may, or have just ended: then they come again."""
    preemptions = served.server.metric("headrace_num_preemptions_total")
    for _ in range(20):
        run_in_turn(served, first=prompts[1:5], then=[prompts[0], prompts[5], prompts[1]])
        if served.server.metric("headrace_num_preemptions_total") > preemptions:
            return
    raise AssertionError("no request was preempted")


def run_in_turn(served: Served, first: list[list[int]], then: list[list[int]]) -> None:
    """Run requests, and others with a better priority once each of the first has begun; compare all answers."""
    begun = threading.Semaphore(0)
    signal_first = lambda number: number == 1 and begun.release()  # noqa: E731
    stream = functools.partial(served.stream, after_event=signal_first, max_tokens=200, priority=5)
    streams = [served.threads.submit(stream, prompt) for prompt in first]
    for _ in first:
        assert begun.acquire(timeout=60)
    served.check([{"prompt": prompt, "priority": 0} for prompt in then])
    for prompt, answer in zip(first, streams, strict=True):
        served.model.check(answer.result(), prompt)


def check_a_second_turn(served: Served) -> None:
    """A conversation of 4,064 tokens, or of 256 if their prompts are computed in small chunks."""
    new, prompt = prompt_of(50, seed=21), prompt_of(4030 if served.steps.chunk == 0 else 222, seed=20)
    [first] = served.check([{"prompt": prompt, "max_tokens": 34}])
    answer = [int(name.removeprefix("token_id:")) for name in first["choices"][0]["logprobs"]["tokens"]]
    [second] = served.check([{"prompt": [*prompt, *answer, *new]}])
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert len(prompt) + len(answer) - cached <= UNITS.get(served.kind, BLOCK_SIZE)


def check_a_killed_engine(served: Served, prompt: list[int]) -> None:
    """The engine is killed in mid-answer; another one continues with the same tokens."""
    whole = served.complete(prompt, max_tokens=60)["choices"][0]["logprobs"]["tokens"]
    engine = served.server.engine_pid()
    kill_once = lambda number: number == 3 and os.kill(engine, signal.SIGKILL)  # noqa: E731
    choice = served.stream(prompt, kill_once, max_tokens=60)
    assert choice["logprobs"]["tokens"] == whole
    served.model.check(choice, prompt)
    assert served.server.engine_pid() != engine
