"""ServerModel: a model of a running server, which scores, judges and tokenizes the lines of a preparation."""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import msgspec

from engine.errors import OptionError, StartupError
from server.commands.alone import say
from server.commands.synthesize.http_client import RequestedModel, SynthesisClient
from server.commands.synthesize.server_batch import ServerBatch, cleanup
from server.finetuning.examples import ExampleMaker
from server.finetuning.faults import InvalidLine
from server.finetuning.rendering import Renderer
from server.jobs.answers import BodyAnswer
from server.schemas.chat import ChatTemplateFields

_REFUSED = (400, 413, 422)  # of a text
_AGAIN = "nothing was written; run the same command again"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A running server. key_source: where the key comes from, for errors. authorities: CAs to trust; None for public
    ones."""

    url: str
    key: str | None
    key_source: str
    authorities: ssl.SSLContext | None = None

    def client(self) -> SynthesisClient:
        return SynthesisClient(
            self.url, self.key, key_source=self.key_source, authorities=self.authorities, remedy=_AGAIN
        )


class _Info(msgspec.Struct):
    model_max_length: int
    eos_token_ids: list[int]


class _Tokenized(msgspec.Struct):
    tokens: list[int]


class ServerModel:
    """A model of the server that the client reaches. name: None for the server's only one."""

    def __init__(self, client: SynthesisClient, name: str | None) -> None:
        self._client = client
        self._name = name

    async def name(self) -> str:
        """Return the model's name. Raises OptionError if none is given and the server has several."""
        if self._name is None:
            self._name = await self._client.only_model()
        return self._name

    async def check(self, requested: Sequence[RequestedModel], *, has_tokens: bool) -> None:
        """Raise OptionError for a requested model that the server lacks, or that cannot do what it is for. has_tokens:
        also check that the server describes the model's tokenizer; raises StartupError if it does not."""
        await self._client.check_models(requested)
        if has_tokens:
            await self.maker()

    async def maker(self, max_length: int | None = None) -> ExampleMaker:
        """Return what makes examples of lines, which the server tokenizes; for a thread beside this event loop.
        max_length: the most tokens of a passage, by default the model's context. Raises StartupError."""
        name = await self.name()
        response = await self._client.send("GET", "/tokenizer_info", params={"model": name})
        try:
            info = msgspec.json.decode(response.content, type=_Info)
        except msgspec.DecodeError as error:
            raise StartupError(
                f"{response.url} does not describe the model's tokenizer ({error}); --server needs a headrace server "
                "of this version"
            ) from None
        tokens = _ServedTokens(self._client, asyncio.get_running_loop(), name, info.eos_token_ids)
        return ExampleMaker(Renderer(tokens, max_length or info.model_max_length), None)

    async def answer(self, path: str, bodies: Sequence[dict[str, Any]]) -> list[BodyAnswer]:
        """Answer the bodies by a batch, whose files are deleted afterwards; a cancellation stops it and deletes them.
        Raises StartupError if the server cannot be reached, refuses the answers, or ends the batch without some."""
        named = ((str(place), body) for place, body in enumerate(bodies))
        batch = await ServerBatch.create(self._client, path, named)
        try:
            await batch.wait()
            try:
                answers = dict(await batch.answers())
            except StartupError as error:
                raise StartupError(f"{error}; {_AGAIN}, which computes them anew") from None
            await batch.delete_files()
        except asyncio.CancelledError:
            async with cleanup(self._client):
                await batch.discard()
            raise
        if missing := len(bodies) - len(answers):
            reason = batch.ended_without(f"{missing:,} of {len(bodies):,}")
            raise StartupError(f"{reason}; {_AGAIN}")
        return [answers[str(place)] for place in range(len(bodies))]


class _ServedTokens:
    """LineTokenizer that asks a server, from a thread beside the event loop of the client."""

    def __init__(
        self, client: SynthesisClient, loop: asyncio.AbstractEventLoop, model: str, eos_token_ids: Sequence[int]
    ) -> None:
        self._client = client
        self._loop = loop
        self._model = model
        self.eos_token_ids = eos_token_ids

    def text_ids(self, text: str) -> list[int]:
        return self._ids({"prompt": text})

    def answer_ids(self, text: str) -> list[int]:
        return self._ids({"prompt": text, "add_special_tokens": False, "parse_special": False})

    def chat_ids(self, fields: ChatTemplateFields, num_messages: int, *, add_generation_prompt: bool) -> list[int]:
        body = fields.model_dump(mode="json", exclude_unset=True)
        messages = body["messages"][:num_messages]
        return self._ids({**body, "messages": messages, "add_generation_prompt": add_generation_prompt})

    def _ids(self, body: dict[str, Any]) -> list[int]:
        sent = self._client.send("POST", "/tokenize", may_refuse=True, json={"model": self._model, **body})
        response = asyncio.run_coroutine_threadsafe(sent, self._loop).result()
        if response.is_success:
            return msgspec.json.decode(response.content, type=_Tokenized).tokens
        message = _message(response)
        if response.status_code in _REFUSED:
            raise InvalidLine(message)
        raise StartupError(f"{response.url} answers {response.status_code}: {message}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "no reason"


def check_server(
    address: ServerAddress, model: str | None, requested: Sequence[RequestedModel], *, has_tokens: bool
) -> None:
    """Check a server before the long work; see `ServerModel.check`. Raises OptionError, also for a server that cannot
    be reached."""
    try:
        on_server(address, model, lambda served: served.check(requested, has_tokens=has_tokens))
    except StartupError as error:
        raise OptionError(f"--server: {error}") from None


def on_server(address: ServerAddress, model: str | None, work: Callable[[ServerModel], Coroutine[Any, Any, T]]) -> T:
    """Run work with a model of a running server; return its result. Raises StartupError and OptionError."""

    async def run() -> T:
        async with contextlib.aclosing(address.client()) as client:
            try:
                return await work(ServerModel(client, model))
            except asyncio.CancelledError:  # Ctrl-C
                say("interrupted; nothing was written")
                raise

    return asyncio.run(run())
