"""A real HTTP server whose model plays a script: agents do not depend on what a small model thinks of."""

import asyncio
import contextlib
import itertools
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.protocol import EngineRequest, FinishReason, TokenizerInfo
from tests.helpers.fake_client import (
    IM_END,
    IM_START,
    FakeClient,
    Script,
    Step,
    byte_tokenizer,
    engine_info,
    make_app,
    says_ids,
)

# As Qwen's: the tools in the system message, calls between marks, results in a user's turn.
_CHAT_TEMPLATE = """\
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}
{%- if tools %}
# Tools
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>
For each call return <tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>{% endif %}<|im_end|>
{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% elif not (loop.first and m.role == 'system') %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_CONTEXT = 1_000_000  # ids, of which each byte is one
MODEL = "scripted"


@dataclass(frozen=True, slots=True)
class Calls:
    """A turn that calls tools, by name and arguments."""

    calls: Sequence[tuple[str, dict[str, object]]]

    @property
    def text(self) -> str:
        return "\n".join(
            f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"
            for name, arguments in self.calls
        )


Turn = str | Calls


@dataclass(frozen=True, slots=True)
class Answered:
    """One HTTP request, as it was answered."""

    method: str
    path: str
    status: int
    ignored: str  # the parameters that the answer lists as ignored


@dataclass(slots=True)
class ScriptedServer:
    """The conversation with tools gets turn after turn, by how often the assistant has spoken in it; a request without
    tools, such as one for a conversation's title, gets `aside`."""

    turns: Sequence[Turn]
    aside: str
    url: str = ""
    prompts: list[str] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)

    def faults(self) -> list[Answered]:
        """The requests to the API that were refused or failed."""
        return [answer for answer in self.answered if answer.status >= 400]

    def rewritten(self) -> list[str]:
        """What stood, in the conversation with tools, where the next prompt was no longer what the last one had been. A
        program whose prompts only grow pays for each token once: the rest is in the prefix cache."""
        turns = [prompt for prompt in self.prompts if "<tools>" in prompt]
        pairs = [(before, after) for before, after in itertools.pairwise(turns) if not after.startswith(before)]
        return [before[_first_difference(before, after) :][:80] for before, after in pairs]

    def reply(self, request: EngineRequest) -> list[Step]:
        prompt = b"".join(_spelled(token_id) for token_id in request.prompt_ids)
        self.prompts.append(prompt.decode(errors="replace"))
        turn: Turn = self.aside
        if b"<tools>" in prompt:
            num_spoken = prompt.count(b"<|im_start|>assistant\n") - 1
            turn = self.turns[num_spoken] if num_spoken < len(self.turns) else "There is nothing left to do."
        text = turn if isinstance(turn, str) else turn.text
        ids = [*text.encode(), IM_END][: request.sampling.max_tokens]
        finish = FinishReason.STOP if ids[-1] == IM_END else FinishReason.LENGTH
        return says_ids(ids, per_step=7, finish=finish)(request)


def _first_difference(one: str, other: str) -> int:
    differ = (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differ, min(len(one), len(other)))


def _spelled(token_id: int) -> bytes:
    if token_id < IM_START:
        return bytes([token_id]) if token_id < 256 else b""
    return b"<|im_start|>" if token_id == IM_START else b"<|im_end|>"


class _Recorder:
    """Notes how each request was answered."""

    def __init__(self, app: ASGIApp, answered: list[Answered]) -> None:
        self._app = app
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {name.decode(): value.decode() for name, value in message["headers"]}
                ignored = headers.get("x-ignored-parameters", "")
                self._answered.append(Answered(scope["method"], scope["path"], message["status"], ignored))
            await send(message)

        await self._app(scope, receive, record if scope["type"] == "http" else send)


@contextlib.contextmanager
def scripted_server(
    turns: Sequence[Turn], *, aside: str = "A small task", **options: object
) -> Iterator[ScriptedServer]:
    """Serves `turns`. options: of ServerConfig."""
    scripted = ScriptedServer(turns, aside)
    app = make_app(scripted_client(scripted.reply), served_model_name=(MODEL,), **options)
    with serving(_Recorder(app, scripted.answered)) as scripted.url:
        yield scripted


def scripted_client(script: Script) -> FakeClient:
    """A client whose model has tools in its chat template, and a long context."""
    tokenizer = TokenizerInfo(
        tokenizer_json=byte_tokenizer(),
        chat_template=_CHAT_TEMPLATE,
        special_tokens={"eos_token": "<|im_end|>"},
        bos_token_id=None,
        eos_token_ids=[IM_END],
        add_bos_token=False,
    )
    return FakeClient(script, engine_info(tokenizer=tokenizer, max_model_len=_CONTEXT))


@contextlib.contextmanager
def serving(app: ASGIApp) -> Iterator[str]:
    """The address of `app`, served on a free port of the loopback interface, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), name="scripted-server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
