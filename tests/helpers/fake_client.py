"""FakeClient: an EngineClient that answers from a script, and a real tokenizer of one token a byte to go with it."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import httpx
from fastapi import FastAPI
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from engine.client.interface import EngineState, EngineStatus
from engine.client.queue.batch_lane import BatchLane
from engine.client.queue.first_token import FirstToken
from engine.config import EngineConfig, SchedulingPolicy
from engine.errors import AdapterUnusable, EngineUnavailable, QueueFull
from engine.protocol import (
    AbortReason,
    AdapterInfo,
    EngineInfo,
    EngineRequest,
    FinishReason,
    NamedPrefix,
    PoolingOutput,
    PoolingRequest,
    PrefixAction,
    PrefixReport,
    RequestOutput,
    SamplingParams,
    ScoringRequest,
    ServiceClass,
    SubmittedRequest,
    TokenizerInfo,
    TokenLogprobs,
)
from engine.scoring.run import ScoringRun
from server.app import create_app
from server.config.server import ServerConfig
from server.metrics.values import Metrics
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.chat_templates.runner import TemplateRunner
from tests.helpers.fake_pooling import PoolScript, pooling_info, pooling_output, pools_prompts

MODEL = "org/tiny"
FINGERPRINT = "default/1.0/0123456789ab/amx-012345/bfloat16"
BOS, IM_START, IM_END = 256, 257, 258  # ids below are bytes
TOKENIZER_SIZE = 259
VOCAB_SIZE = 264  # the output layer is wider than the tokenizer, as padded ones are
MAX_MODEL_LEN = 200
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@functools.cache
def byte_tokenizer() -> bytes:
    """A tokenizer.json whose ids 0-255 are the bytes, and whose three special tokens come after them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text) for text in ("<|bos|>", "<|im_start|>", "<|im_end|>")])
    return tokenizer.to_str().encode()


def engine_info(**changes: object) -> EngineInfo:
    tokenizer = TokenizerInfo(
        tokenizer_json=byte_tokenizer(),
        chat_template=CHAT_TEMPLATE,
        special_tokens={"bos_token": "<|bos|>", "eos_token": "<|im_end|>"},
        bos_token_id=BOS,
        eos_token_ids=[IM_END],
        add_bos_token=True,
    )
    fields: dict[str, object] = {
        "architecture": "tiny",
        "device": "cpu",
        "dtype": "float32",
        "system_fingerprint": FINGERPRINT,
        "vocab_size": VOCAB_SIZE,
        "max_model_len": MAX_MODEL_LEN,
        "block_size": 16,
        "num_blocks": 64,
        "kv_windows": [None],
        "kv_bytes": 0,
        "weight_bytes": 0,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "tokenizer": tokenizer,
        "generation_defaults": {},
        "notes": [],
    }
    return EngineInfo(**{**fields, **changes})  # type: ignore[arg-type]


# None: nothing more comes until the request is aborted. An event: nothing before it is set.
Step = RequestOutput | BaseException | asyncio.Event | None
Script = Callable[[EngineRequest], list[Step]]


class FakeStream:
    """A RequestStream that plays one request's steps."""

    def __init__(self, client: "FakeClient", played: list[EngineRequest], steps: list[Step]) -> None:
        """played: the request, or the rows of one that scores labels."""
        self.played = played
        self.abort_reason: AbortReason | None = None
        self._client = client
        self._steps = steps
        self._aborted = asyncio.Event()
        self._is_open = True

    @property
    def request(self) -> EngineRequest:
        return self.played[0]

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        for step in self._steps:
            await asyncio.sleep(0)
            if step is None:
                await self._aborted.wait()
            if isinstance(step, asyncio.Event):
                await step.wait()
                continue
            if self._aborted.is_set():
                return
            if isinstance(step, BaseException):
                self._close()
                raise step
            assert step is not None
            if step.finish_reason is not None:
                self._close()
            yield step
        assert not self._is_open, "the script has no end"

    def abort(self, reason: AbortReason) -> None:
        if self._is_open:
            self.abort_reason = reason
            self._close()
        self._aborted.set()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._client.num_open -= 1


class FakeClient:
    """An EngineClient whose state a test sets, and whose requests play `script`, or `pool_script` if its info has
    `pooling`. A request to score labels plays `script` for each of its rows.

    requests: those that the script has played, in order; of one that scores labels, first the rows behind questions."""

    def __init__(
        self,
        script: Script,
        info: EngineInfo | None = None,
        *,
        pool_script: PoolScript = pools_prompts,
        batch_limit: int = 1000,
    ) -> None:
        self.script = script
        self.pool_script = pool_script
        self.pool_requests: list[PoolingRequest] = []
        self.scoring_requests: list[ScoringRequest] = []
        self.pool_gate: asyncio.Event | None = None  # no call returns before it is set
        self.num_canceled_pools = 0
        self.state = EngineState.READY
        self.reason = ""
        self.stage: str | None = None
        self.progress: float | None = None
        self.seconds_since_progress = 0.0
        self.capacity = 1000
        self.first_token_s = self.seconds_per_token = 0.0  # of predictions
        self.checked_tokens: list[int] = []  # of each call of check_capacity
        self.num_open = 0
        self.num_waiting = 0
        self.num_waiting_tokens = 0
        self.num_running: int | None = None  # None: all that are open
        self.streams: list[FakeStream] = []
        self.log_level: str | None = None  # that was set
        self.adapters: dict[str, AdapterInfo | Exception] = {}
        self.forgotten: list[bytes] = []  # digests of adapters
        self.pinned: dict[str, NamedPrefix] = {}
        self.max_pinned = 16  # blocks
        self.saved: dict[str, int] = {}  # by name: blocks on disk, one more with each request to save them
        self.max_saved = 16
        self.batch_lane = BatchLane(batch_limit)
        self._info = info or engine_info()

    @property
    def requests(self) -> list[EngineRequest]:
        return [request for stream in self.streams for request in stream.played]

    @property
    def info(self) -> EngineInfo:
        if self.state is EngineState.LOADING:
            raise EngineUnavailable(self.reason)
        return self._info

    def status(self) -> EngineStatus:
        return EngineStatus(
            state=self.state,
            reason=self.reason,
            stage=self.stage,
            progress=self.progress,
            num_open=self.num_open,
            num_running=self.num_open if self.num_running is None else self.num_running,
            num_waiting=self.num_waiting,
            num_waiting_tokens=self.num_waiting_tokens,
            num_cached_tokens=self.num_waiting_tokens // 4,
            num_pending_tokens=self.num_waiting_tokens // 2,
            kv_usage=self.num_waiting_tokens / 1000,
            seconds_since_progress=self.seconds_since_progress,
            num_restarts=0,
        )

    def check_capacity(
        self,
        num_requests: int,
        num_new_tokens: int = 1,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
    ) -> None:
        self.checked_tokens.append(num_new_tokens)
        if self.state is not EngineState.READY:
            raise EngineUnavailable(self.reason)
        if service_class is not ServiceClass.BATCH and self.num_open + num_requests > self.capacity:
            raise QueueFull("the queue is full", retry_after_s=1.5)

    def predict_first_token(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:  # noqa: ARG002
        own_s = num_new_tokens * self.seconds_per_token
        return FirstToken(self.first_token_s + own_s, 2 * (self.first_token_s + own_s), own_s)

    def drain_s(self) -> float:
        return 2.5

    async def load_adapter(self, path: str) -> AdapterInfo:
        """As `adapters` has it by the file's name; raises what is an error there."""
        self.check_capacity(0)
        found = self.adapters.get(Path(path).name, AdapterUnusable(f"{path} has no adapter_config.json"))
        await asyncio.sleep(0)
        if isinstance(found, Exception):
            raise found
        return found

    def forget_adapter(self, digest: bytes) -> None:
        self.forgotten.append(digest)

    async def handle_prefix(self, action: PrefixAction, prefix: NamedPrefix) -> PrefixReport:
        """The cache has the prompts of all requests."""
        self.check_capacity(0)
        await asyncio.sleep(0)
        size = self.info.block_size
        num_blocks = len(prefix.prompt_ids) // size
        ids = prefix.prompt_ids[: num_blocks * size]
        is_cached = any(
            request.prompt_ids[: len(ids)] == ids and request.cache_salt == prefix.cache_salt
            for request in self.requests
        )
        others = sum(len(each.prompt_ids) // size for name, each in self.pinned.items() if name != prefix.name)
        was_pinned = prefix.name in self.pinned
        is_refused = action is PrefixAction.PIN and others + num_blocks > self.max_pinned
        if action is PrefixAction.PIN and is_cached and not is_refused:
            self.pinned[prefix.name] = prefix
        elif action is PrefixAction.UNPIN:
            self.pinned.pop(prefix.name, None)
        num_saved = self.saved.get(prefix.name, 0)
        if action is PrefixAction.SAVE and is_cached:
            self.saved[prefix.name] = min(num_saved + 1, num_blocks, self.max_saved)
        return PrefixReport(
            num_tokens=len(ids),
            num_blocks=num_blocks,
            num_in_cache=num_blocks if is_cached else 0,
            num_on_disk=num_saved,
            num_missing=0 if is_cached else num_blocks - num_saved,
            is_pinned=self.pinned.get(prefix.name) == prefix,
            was_pinned=was_pinned,
            is_refused=is_refused,
            num_pinned=others,
            max_pinned=self.max_pinned,
            idle_s=5.0 if is_cached else None,
        )

    def set_log_level(self, level: str) -> None:
        self.log_level = level

    def submit(self, request: SubmittedRequest, *, num_new_tokens: int | None = None) -> FakeStream:  # noqa: ARG002
        self.check_capacity(1, service_class=request.service_class)
        played: list[EngineRequest] = []
        if isinstance(request, ScoringRequest):
            self.scoring_requests.append(request)
            steps = self._score(request, played)
        else:
            played.append(request)
            steps = self.script(request)
        stream = FakeStream(self, played, steps)
        self.streams.append(stream)
        self.num_open += 1
        return stream

    def _score(self, request: ScoringRequest, played: list[EngineRequest]) -> list[Step]:
        """The steps of the first row that has no end by itself, or the request's output alone. Adds the rows to
        `played`."""
        run = ScoringRun(request)
        start = len(played)

        def place(row: EngineRequest) -> tuple[int, int]:
            """The number of label tokens, and of the question."""
            _, *place = row.id.removeprefix(request.id).split("/")
            return max(0, len(place) - 1), int(place[0]) if place else 0

        while True:
            rows = []
            while run.has_due:
                rows.append(run.take_next()[0])
            for row in sorted(rows, key=lambda each: each.id.count("/")):
                played.append(row)
                *before, last = self.script(row)
                if before or not isinstance(last, RequestOutput):
                    return [*before, last]
                if (output := run.receive(last)) is not None:
                    played[start:] = sorted(played[start:], key=place)
                    return [output]

    async def pool(self, requests: Sequence[PoolingRequest]) -> list[PoolingOutput]:
        self.check_capacity(1, service_class=requests[0].service_class)
        assert self._info.pooling is not None
        self.pool_requests += requests
        self.num_open += len(requests)
        try:
            await (asyncio.sleep(0) if self.pool_gate is None else self.pool_gate.wait())
        except asyncio.CancelledError:
            self.num_canceled_pools += 1
            raise
        finally:
            self.num_open -= len(requests)
        return [self._pooled(request) for request in requests]

    def _pooled(self, request: PoolingRequest) -> PoolingOutput:
        pooled = self.pool_script(request)
        if isinstance(pooled, BaseException):
            raise pooled
        return pooled if isinstance(pooled, PoolingOutput) else pooling_output(request, pooled)


def pooling_client(pool_script: PoolScript = pools_prompts, **changes: object) -> FakeClient:
    """The fake of a pooling engine. changes: to its PoolingInfo."""

    def generates_nothing(request: EngineRequest) -> list[Step]:
        raise AssertionError(f"request {request.id} would have a pooling model generate")

    return FakeClient(generates_nothing, engine_info(pooling=pooling_info(**changes)), pool_script=pool_script)


def prompt_text(client: FakeClient, number: int = 0) -> str:
    """The bytes of a request's prompt, its control tokens left out."""
    return bytes(token for token in client.requests[number].prompt_ids if token < 256).decode()


def says(text: str | bytes, *, per_step: int = 1, finish: FinishReason = FinishReason.LENGTH) -> Script:
    """A script: the bytes of `text`, `per_step` at a time, ended by an EOS (STOP) or with the last byte (LENGTH)."""
    ids = list(text.encode() if isinstance(text, str) else text)
    return says_ids(ids + [IM_END] * (finish is FinishReason.STOP), per_step=per_step, finish=finish)


def says_or_scores(text: str) -> Script:
    """A script of `text`, and of one token where only one is asked for, as behind the questions of a decision."""

    def script(request: EngineRequest) -> list[Step]:
        return says("B" if request.sampling.max_tokens == 1 else text)(request)

    return script


def says_ids(ids: list[int], *, per_step: int = 1, finish: FinishReason = FinishReason.LENGTH) -> Script:
    """A script of these ids. A STOP is put down to the last one."""

    def script(request: EngineRequest) -> list[Step]:
        steps: list[Step] = []
        for start in range(0, max(1, len(ids)), per_step):
            new_ids = ids[start : start + per_step]
            is_last = start + per_step >= len(ids)
            steps.append(
                RequestOutput(
                    id=request.id,
                    new_ids=new_ids,
                    logprobs=_scores(new_ids, request.sampling),
                    prompt_logprobs=_prompt_scores(request) if start == 0 else None,
                    finish_reason=finish if is_last else None,
                    stop_token_id=ids[-1] if is_last and finish is FinishReason.STOP else None,
                    num_cached_tokens=min(2, len(request.prompt_ids)),
                    queue_s=0.25 if start == 0 else None,
                )
            )
        return steps

    return script


def _scores(ids: list[int], sampling: SamplingParams) -> list[TokenLogprobs] | None:
    """Each id with logprob -id/100, and the ids below it as runners-up; requested ids have -requested/10."""
    if sampling.logprobs is None:
        return None
    if sampling.logprob_token_ids:
        return [TokenLogprobs(i, -i / 100, [(k, -k / 10) for k in sampling.logprob_token_ids]) for i in ids]
    return [TokenLogprobs(i, -i / 100, _top(i, sampling.logprobs)) for i in ids]


def _top(token_id: int, num_top: int) -> list[tuple[int, float]]:
    return [(token_id - k, -token_id / 100 - k) for k in range(num_top)]


def _prompt_scores(request: EngineRequest) -> list[TokenLogprobs | None] | None:
    """As generated ids'; each token is the likeliest."""
    num_top = request.sampling.prompt_logprobs
    if num_top is None:
        return None
    return [None, *(TokenLogprobs(i, -i / 100, _top(i, num_top), 1) for i in request.prompt_ids[1:])]


def make_app(
    client: FakeClient,
    *,
    priority: bool = False,
    enable_lora: bool = False,
    enable_prefix_caching: bool = True,
    templates: TemplateRunner | None = None,
    served_model_name: tuple[str, ...] = (MODEL,),
    **options: object,
) -> FastAPI:
    policy = SchedulingPolicy.PRIORITY if priority else SchedulingPolicy.FCFS
    engine_config = EngineConfig(
        model=MODEL,
        scheduling_policy=policy,
        enable_lora=enable_lora,
        enable_prefix_caching=enable_prefix_caching,
    )
    config = ServerConfig(served_model_name=served_model_name, **options)  # type: ignore[arg-type]
    return create_app(client, config, engine_config, Metrics(MODEL), templates=templates or DirectTemplates())


def http(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """A client that calls `app` directly. Answers come whole: it is no test of streaming in time."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers)
