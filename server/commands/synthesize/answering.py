"""Answerers of a synthesis: an engine of its own, a running server by batches, or a teacher request by request."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import httpx
import msgspec

from engine.errors import StartupError
from server.batches.running import run_body
from server.commands.alone import REQUESTS_PER_SLOT, in_parallel, say
from server.commands.synthesize.http_client import SynthesisClient, printable_start
from server.commands.synthesize.journal import AnswerJournal
from server.commands.synthesize.server_batch import ServerBatch, cleanup
from server.context import ServerContext
from server.jobs.answers import BodyAnswer
from server.keys.caller import ANYBODY
from server.synthesis.requests import CHAT_PATH, StepRequest

_LABEL = "synthesis"  # in a batch's metadata
_AGAIN = "run the same command to continue"
_PAGE = 100  # batches or files of an answer, at most
_MOST_PAGES = 100  # pages that are searched for a killed run

Store = Callable[[str, BodyAnswer], None]  # custom_id, answer; may raise to stop the run


class Answerer(Protocol):
    async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
        """Answer all requests, and store each answer when it is there."""
        ...


class TokensSpent(Exception):
    """The answers have more tokens than --max-tokens."""


class JournaledAnswers:
    """Answers from the journal, and from an answerer for what the journal lacks. num_tokens: read and written, for
    all answers that the run used, so that a resumed run has the budget of one."""

    def __init__(self, journal: AnswerJournal, answerer: Answerer, max_tokens: int | None) -> None:
        self._journal = journal
        self._answerer = answerer
        self._max_tokens = max_tokens
        self.num_tokens = 0
        self.num_computed = 0

    async def __call__(self, requests: Sequence[StepRequest]) -> Mapping[str, BodyAnswer]:
        """Return the answers by custom_id. Raises TokensSpent, and StartupError."""
        answers: dict[str, BodyAnswer] = {}
        for request in requests:
            if (known := self._journal.get(request.custom_id)) is not None:
                answers[request.custom_id] = known
                self._count(known)

        def store(custom_id: str, answer: BodyAnswer) -> None:
            if answer.is_completed:
                self._journal.add(custom_id, answer)
            answers[custom_id] = answer
            self.num_computed += 1
            self._count(answer)

        if left := [request for request in requests if request.custom_id not in answers]:
            await self._answerer.answer(left, store)
        return answers

    def _count(self, answer: BodyAnswer) -> None:
        self.num_tokens += answer.usage.input_tokens + answer.usage.output_tokens
        if self._max_tokens is not None and self.num_tokens > self._max_tokens:
            raise TokensSpent


class EngineAnswerer:
    """Runs requests at batch priority on the engine of this process."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
        async def one(request: StepRequest) -> None:
            store(request.custom_id, await run_body(self._context, ANYBODY, CHAT_PATH, request.body))

        await in_parallel(requests, one, REQUESTS_PER_SLOT * self._context.models.default.client.info.max_num_seqs)


class TeacherAnswerer:
    """Sends requests to another OpenAI endpoint, a few at a time. A refusal ends the run: its cause, such as a wrong
    path, model or field, is mostly that of all requests, and each may cost."""

    def __init__(self, client: SynthesisClient, num_parallel: int) -> None:
        self._client = client
        self._num_parallel = num_parallel

    async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
        async def one(request: StepRequest) -> None:
            response = await self._client.send("POST", CHAT_PATH, json=request.body)
            store(request.custom_id, BodyAnswer("", response.status_code, _one_line_completion(response)))

        await in_parallel(requests, one, self._num_parallel)


class SharedAnswerer:
    """Sends the requests of some steps to a teacher, and the others to another answerer."""

    def __init__(self, answerer: Answerer, teacher: Answerer, teacher_steps: Collection[str]) -> None:
        self._answerer = answerer
        self._teacher = teacher
        self._teacher_steps = teacher_steps

    async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
        taught = [request for request in requests if request.step in self._teacher_steps]
        others = [request for request in requests if request.step not in self._teacher_steps]
        for answerer, own in ((self._teacher, taught), (self._answerer, others)):
            if own:
                await answerer.answer(own, store)


def _one_line_completion(response: httpx.Response) -> bytes:
    """Return the JSON of a chat completion without line breaks, since a line of the journal has it. Raises StartupError
    for any other body."""
    body = response.content.removeprefix(codecs.BOM_UTF8)
    try:
        if "choices" in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
            return msgspec.json.format(body, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        pass
    raise StartupError(
        f'{response.url} answers {response.status_code} with "{printable_start(response)}", which is no chat '
        f"completion; check the address; what is done is stored: {_AGAIN}"
    )


class BatchAnswerer:
    """Sends the requests of a step to a running server as one batch. A batch that a killed run left there is found by
    its metadata, and its answers are used; a file that it left without a batch is found by its name, and deleted."""

    def __init__(self, client: SynthesisClient, run: str) -> None:
        """run: names recipe, seed, model and output."""
        self._client = client
        self._run = run
        self._has_resumed = False

    async def answer(self, requests: Sequence[StepRequest], store: Store) -> None:
        left = {request.custom_id: request for request in requests}
        if not self._has_resumed:
            self._has_resumed = True
            batch = await self._newest()
            await self._delete_file_without_batch(batch)
            if batch is not None:  # the only one that may have answers without a line here
                await _collect(self._client, batch, left, store)
        if left:
            bodies = [(each.custom_id, each.body) for each in left.values()]
            metadata = {_LABEL: self._run}
            batch = await ServerBatch.create(self._client, CHAT_PATH, bodies, metadata, self._file_name)
            await _collect(self._client, batch, left, store)
            if left:
                raise StartupError(f"{batch.ended_without(f'{len(left):,}')}; {_AGAIN}")

    async def _newest(self) -> ServerBatch | None:
        """Return the newest batch of the run, however many others the key has had since."""
        async for batch in self._listed("batches"):
            if (batch.get("metadata") or {}).get(_LABEL) == self._run:
                return ServerBatch(self._client, batch)
        return None

    async def _delete_file_without_batch(self, newest: ServerBatch | None) -> None:
        """Delete the file of a run that was killed after the upload and before its batch was made. newest: the run's
        batch, whose file has the same name; older ones have none any more."""
        async for file in self._listed("files", purpose="batch"):
            if file.get("filename") == self._file_name and (newest is None or file["id"] != newest.input_file_id):
                await self._client.send("DELETE", f"/v1/files/{file['id']}", may_refuse=True)
                say(f"deleted {file['id']} of {self._client.url}, which a killed run left there without a batch")
                return

    @property
    def _file_name(self) -> str:
        return f"{_LABEL}-{self._run}.jsonl"

    async def _listed(self, kind: str, **filters: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the batches or files of the key, the newest first, up to a limit."""
        params: dict[str, str | int] = {**filters, "limit": _PAGE}
        for _ in range(_MOST_PAGES):
            page = await self._client.json("GET", f"/v1/{kind}", params=params)
            for each in page["data"]:
                yield each
            if not page["data"] or not page.get("has_more"):
                return
            params["after"] = page["data"][-1]["id"]
        most = _MOST_PAGES * _PAGE
        say(f"{self._client.url} has more than {most:,} {kind}; an older one of this run is not looked for")


async def _collect(client: SynthesisClient, batch: ServerBatch, left: dict[str, StepRequest], store: Store) -> None:
    """Wait for a batch, and store its answers as `_take` does. A cancellation stops the batch, and stores the answers
    that it has by then."""
    try:
        await batch.wait()
        await _take(batch, left, store)
    except asyncio.CancelledError:
        async with cleanup(client):
            await batch.stop()
            await _take(batch, left, store)
        raise


async def _take(batch: ServerBatch, left: dict[str, StepRequest], store: Store) -> None:
    """Store the answers that are in `left`, and take them from it; delete the batch's files."""
    for custom_id, answer in await batch.answers():
        if left.pop(custom_id, None) is not None:
            store(custom_id, answer)
    await batch.delete_files()
