"""`headrace data prepare --server`: lines are scored, judged and counted by a running server."""

import asyncio
import json
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import OptionError, StartupError
from engine.protocol import EngineRequest, FinishReason, PoolingRequest, RequestOutput, ServiceClass
from server.commands.data import server_model
from server.commands.data.command import run
from server.commands.data.server_model import ServerAddress, ServerModel
from server.commands.synthesize.http_client import SynthesisClient
from server.data.lines import LineKind
from server.data.report import NumberSpread
from server.finetuning.lines import read_training_line
from server.finetuning.rendering import ModelTokens, Renderer
from server.finetuning.scores.line_scores import METHODS
from tests.helpers.batches import batches_run
from tests.helpers.data_lines import JUDGE, chat, encoded
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL, FakeClient, Step, engine_info, make_app, pooling_client
from tests.server.commands.data.test_scoring import letter_lines, predicts, use_engine

pytest.importorskip("rensa", reason="the extra 'data' is not installed")
pytestmark = pytest.mark.fast

URL = "http://server"


class Server(httpx.ASGITransport):
    """A transport to an application that answers batches, until the transport is closed."""

    def __init__(self, fake: FakeClient) -> None:
        self._app = make_app(fake)
        self._stack: AsyncExitStack | None = None
        super().__init__(self._app)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._stack is None:
            self._stack = AsyncExitStack()
            await self._stack.enter_async_context(batches_run(self._app))
        return await super().handle_async_request(request)

    async def aclose(self) -> None:
        if self._stack is not None:
            await self._stack.aclose()


def _answers(request: EngineRequest) -> list[Step]:
    """Log probabilities of a scored prompt, and the score 1 or 8 to a judge's question."""
    if request.sampling.prompt_logprobs is not None:
        return predicts(request)
    prompt = bytes(each for each in request.prompt_ids if each < 256).decode()
    return [
        RequestOutput(id=request.id, new_ids=list(b"1" if "aa" in prompt else b"8"), finish_reason=FinishReason.STOP)
    ]


def _client(fake: FakeClient) -> SynthesisClient:
    async def sleep(_: float) -> None:
        await asyncio.sleep(0.001)

    return SynthesisClient(URL, None, key_source="", sleep=sleep, transport=Server(fake))


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    """The engines of the servers that the command has reached, in a folder with ten lines."""
    made: list[FakeClient] = []

    def client(_: ServerAddress) -> SynthesisClient:
        made.append(FakeClient(_answers, engine_info(max_model_len=200)))
        return _client(made[-1])

    monkeypatch.setattr(ServerAddress, "client", client)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(letter_lines())
    return made


def _prepare(options: str) -> tuple[str, dict[str, Any]]:
    """Prepare the lines; return the letters of those that are kept, and the report."""
    command = "prepare in.jsonl --out out.jsonl --report report.json --max-removed 0.9 --quality"
    assert run([*command.split(), *options.split()]) == 0
    lines = Path("out.jsonl").read_text().splitlines()
    return "".join(json.loads(line)["completion"][0] for line in lines), json.loads(Path("report.json").read_text())


def test_a_server_scores_lines_by_batches_as_a_loaded_model_does(
    fakes: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--max-perplexity p80 --min-ifd p20 --order difficulty"
    kept, report = _prepare(f"{options} --server {URL}")
    assert {request.service_class for fake in fakes for request in fake.requests} == {ServiceClass.BATCH}
    assert report["tokens"]["total"] > 0
    tokens = report.pop("tokens"), report.pop("num_trained_tokens")

    use_engine(lambda: FakeClient(predicts, engine_info(max_model_len=200)), monkeypatch)
    monkeypatch.setattr("server.commands.data.tokens.count_tokens", lambda *_: (NumberSpread(**tokens[0]), tokens[1]))
    kept_alone, report_alone = _prepare(f"{options} --model m")
    assert (report_alone.pop("tokens"), report_alone.pop("num_trained_tokens")) == tokens
    assert (kept, report) == (kept_alone, report_alone)
    assert len(kept) == 8


def test_a_server_counts_tokens_alone(fakes: list[FakeClient]) -> None:
    _, report = _prepare(f"--server {URL}")
    assert report["num_trained_tokens"] == 10 * 5
    assert not any(fake.requests for fake in fakes)


def test_a_server_judges_by_the_model_that_the_grader_names(fakes: list[FakeClient]) -> None:
    Path("judge.json").write_text(json.dumps({**JUDGE, "model": MODEL}))
    kept, report = _prepare(f"--judge judge.json --min-score 5 --server {URL}")
    assert kept == "jdbcefghi"
    assert report["removed"]["judge"]["num"] == 1
    assert sum(len(fake.requests) for fake in fakes) == 10


def test_answers_that_cannot_be_downloaded_are_said_to_be_computed_anew(
    fakes: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = SynthesisClient.send

    async def refused(client: SynthesisClient, method: str, path: str, **given: Any) -> httpx.Response:
        if path.endswith("/content"):
            return httpx.Response(403, json={"error": {"message": "no"}}, request=httpx.Request(method, f"{URL}{path}"))
        return await send(client, method, path, **given)

    monkeypatch.setattr(SynthesisClient, "send", refused)
    with pytest.raises(
        StartupError, match=r"stay there; nothing was written; run the same command again, which computes"
    ):
        _prepare(f"--max-perplexity 20 --server {URL}")
    assert fakes
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("place", ["server", "alone"])
def test_semantic_duplicates_are_removed_by_an_embedding_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    def pools(request: PoolingRequest) -> list[list[float]]:
        letter = next(token for token in request.prompt_ids if token < 256)
        return [[1.0, float(letter > ord("e"))]]

    made: list[FakeClient] = []

    def client() -> FakeClient:
        made.append(pooling_client(pools, dimensions=2))
        return made[-1]

    monkeypatch.setattr(ServerAddress, "client", lambda _: _client(client()))
    use_engine(client, monkeypatch, name=MODEL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(encoded(*({"text": f"{letter} text"} for letter in "abcfg")))
    options = f"--semantic-model {MODEL} --max-removed 1 --report report.json --quality --dedup none"
    server = f" --server {URL}" if place == "server" else ""
    assert run(["prepare", "in.jsonl", "--out", "out.jsonl", *options.split(), *server.split()]) == 0
    assert [json.loads(line)["text"][0] for line in Path("out.jsonl").read_text().splitlines()] == ["a", "f"]
    assert {request.service_class for fake in made for request in fake.pool_requests} == {ServiceClass.BATCH}
    assert json.loads(Path("report.json").read_text())["tokens"] is None  # an embedding model is not trained
    capsys.readouterr()
    assert run(["report", "report.json"]) == 0
    assert "Semantic duplicates: 2 clusters, the largest ones" in capsys.readouterr().out


async def test_requests_of_a_batch_are_answered_in_order_and_its_files_are_deleted() -> None:
    fake = FakeClient(_answers, engine_info(max_model_len=200))
    bodies = [{"model": MODEL, "prompt": text, "max_tokens": 1} for text in ("aa", "b", "aa")]
    async with asyncio.timeout(DEADLINE_S), aclosing(_client(fake)) as client:
        answers = await ServerModel(client, None).answer("/v1/completions", [*bodies, {**bodies[0], "n": -1}])
        files = await client.json("GET", "/v1/files")
    texts = [json.loads(each.body)["choices"][0]["text"] for each in answers[:3]]
    assert (texts, answers[3].status_code) == (["1", "8", "1"], 400)
    assert files["data"] == []


async def test_an_interrupted_batch_is_canceled_and_its_files_are_deleted() -> None:
    fake = FakeClient(lambda _: [None], engine_info(max_model_len=200))
    async with asyncio.timeout(DEADLINE_S), aclosing(_client(fake)) as client:
        body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
        answering = asyncio.create_task(ServerModel(client, None).answer("/v1/completions", [body]))
        while not fake.num_open:
            await asyncio.sleep(0.001)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        (batch,) = (await client.json("GET", "/v1/batches"))["data"]
        files = await client.json("GET", "/v1/files")
    assert batch["status"] == "cancelled"
    assert files["data"] == []


def test_a_model_that_makes_vectors_is_refused_as_a_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerAddress, "client", lambda _: _client(pooling_client()))
    monkeypatch.chdir(tmp_path)
    Path("judge.json").write_text(json.dumps({**JUDGE, "model": MODEL}))
    Path("in.jsonl").write_text("no line")
    with pytest.raises(OptionError, match=rf"--judge judge.json: the model {MODEL} .* and not completion"):
        _prepare(f"--judge judge.json --min-score 5 --server {URL}")


_CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
LINES = [
    chat("Why?", "So <|im_end|> it is."),
    {"prompt": "Why?", "completion": "Because.<|im_end|>"},
    {"text": "Some <|im_start|> text."},
    {
        "input": {"messages": [{"role": "user", "content": "Why?"}]},
        "preferred_output": [{"role": "assistant", "content": "So."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    },
    {
        "messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "tool_calls": [_CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "A tree."},
            {"role": "assistant", "content": [{"type": "text", "text": "A tree."}]},
        ],
        "tools": [_TOOL],
    },
]
KINDS = (LineKind.CHAT, LineKind.COMPLETION, LineKind.TEXT, LineKind.PREFERENCE, LineKind.CHAT)


@pytest.mark.parametrize(("line", "kind"), list(zip(LINES, KINDS, strict=True)), ids=lambda value: str(value)[:12])
async def test_lines_have_the_same_tokens_by_a_server(line: dict[str, Any], kind: LineKind) -> None:
    fake = FakeClient(_answers, engine_info(max_model_len=2000))
    content, _ = read_training_line(json.dumps(line).encode(), METHODS[kind])
    async with asyncio.timeout(DEADLINE_S), aclosing(_client(fake)) as client:
        maker = await ServerModel(client, None).maker()
        served = await asyncio.to_thread(maker.examples, content, 1)
    text_model = await make_app(fake).state.context.models.default.text_model()
    local = type(maker)(Renderer(ModelTokens(text_model), 2000), None).examples(content, 1)
    assert served == local


@pytest.mark.usefixtures("fakes")
def test_lines_that_the_server_cannot_render_are_named() -> None:
    Path("in.jsonl").write_bytes(encoded({"prompt": "x" * 300, "completion": "y"}))
    with pytest.raises(StartupError, match=r"line 1: it has 30. tokens, and the text to learn starts after 200"):
        _prepare(f"--max-perplexity 20 --server {URL}")


@pytest.mark.usefixtures("fakes")
def test_another_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def client(content: bytes) -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
        other = SynthesisClient(URL, None, key_source="", transport=transport)
        monkeypatch.setattr(ServerAddress, "client", lambda _: other)

    client(b'{"data": [{"id": "m"}]}')
    with pytest.raises(OptionError, match=r"does not describe the model's tokenizer .* a headrace server of"):
        _prepare(f"--max-perplexity 20 --server {URL}")
    client(b'{"data": [{"id": "m"}, {"id": "n"}]}')
    with pytest.raises(OptionError, match=r"has 2 models; choose one with --model: m, n"):
        _prepare(f"--max-perplexity 20 --server {URL}")


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model other", f"--model: {URL} has no model other; it has {MODEL}"),
        ("--semantic-model minilm", f"--semantic-model: {URL} has no model minilm; it has {MODEL}"),
        ("--judge judge.json --min-score 5", f"--judge judge.json: {URL} has no model tiny; it has {MODEL}"),
        (
            f"--semantic-model {MODEL}",
            f"--semantic-model: the model {MODEL} of {URL} can do completion.* not embedding",
        ),
    ],
)
def test_a_model_that_the_server_lacks_or_that_does_something_else_is_refused_before_lines_are_read(
    options: str, message: str
) -> None:
    Path("judge.json").write_text(json.dumps(JUDGE))
    Path("in.jsonl").write_text("no line")
    with pytest.raises(OptionError, match=message):
        _prepare(f"{options} --server {URL}")


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--server localhost:8000", "--server must begin with http:// or https://, not 'localhost:8000'"),
        ("--key-file key", "--key-file needs --server"),
        ("--server http://s --key-file no", "--key-file no: No such file"),
        ("--server http://s --min-ifd 1 --max-ifd 1", "--min-ifd is 1, not below --max-ifd, 1, so no line is between"),
        ("--max-perplexity 20", "--max-perplexity needs --model, the model that scores the lines, or --server"),
    ],
)
def test_wrong_options_are_refused(options: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        _prepare(options)


def test_the_key_comes_from_the_environment_and_an_unreachable_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def refuses(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        raise httpx.ConnectError("All connection attempts failed") from ConnectionRefusedError("refused")

    def client(url: str, key: str | None, **given: Any) -> SynthesisClient:
        return SynthesisClient(url, key, **given, transport=httpx.MockTransport(refuses))

    monkeypatch.setattr(server_model, "SynthesisClient", client)
    monkeypatch.setenv("HEADRACE_CLIENT_KEY", "secret")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("no line")  # and it is not read before
    with pytest.raises(OptionError, match=r"--server: http://server cannot be reached \(refused\)"):
        _prepare(f"--max-perplexity 20 --server {URL}")
    assert seen == ["Bearer secret"]
    assert not Path("out.jsonl").exists()
