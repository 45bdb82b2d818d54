"""A server for the tests of the chat page, in a process that can be killed: `python chat_server.py PORT GRACE`.

Its answers are chosen by the last question: "wait: TEXT" says half of TEXT and the rest after `GET /test/release`,
"queue: TEXT" says all of it then, "limit: TEXT" ends at the maximum length, "twice: TEXT" too and waits when it is
continued, "fail: TEXT" fails after half of it, and everything else is echoed. An answer that is continued goes on with
" and so on.". GRACE: seconds for which streams outlive their connection.
"""

import asyncio
import sys

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.errors import EngineUnavailable
from engine.protocol import EngineRequest, FinishReason
from tests.helpers.fake_client import MODEL, FakeClient, Step, make_app, says
from tests.integrations.scripted_server import scripted_client

# Names that the server knows as well; tests of the chooser show them as models and adapters of their own.
OTHER_NAMES = ("other", "ft:tiny:headrace:support:ab12", "ft:tiny:headrace:support:ab12:ckpt-step-20")


class _Script:
    def __init__(self) -> None:
        self._gate = asyncio.Event()

    def release(self) -> None:
        self._gate.set()
        self._gate = asyncio.Event()

    def __call__(self, request: EngineRequest) -> list[Step]:
        prompt = bytes(each for each in request.prompt_ids if each < 256).decode()
        question, _, answered = prompt.rpartition("user\n")[2].partition("assistant\n")
        kind, _, text = question.strip().rpartition("\n")[2].rpartition(": ")
        if answered:
            steps = says(" and so on.", finish=FinishReason.STOP)(request)
            return [*steps[:4], self._gate, *steps[4:]] if kind == "twice" else steps
        if kind in ("limit", "twice"):
            return says(text)(request)
        if not kind:
            return says(f"echo: {text}", per_step=5, finish=FinishReason.STOP)(request)
        steps = says(text, finish=FinishReason.STOP)(request)
        half = len(steps) // 2
        if kind == "fail":
            return [*steps[:half], EngineUnavailable("the engine ended")]
        return [self._gate, *steps] if kind == "queue" else [*steps[:half], self._gate, *steps[half:]]


class _Observed:
    """The app, with two paths for tests: one lets waiting answers go on, and one tells how many requests there were and
    how many are open."""

    def __init__(self, app: ASGIApp, client: FakeClient, script: _Script) -> None:
        self._app = app
        self._client = client
        self._script = script

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        app = self._app
        if path == "/test/release":
            self._script.release()
            app = JSONResponse(None)
        elif path == "/test/requests":
            app = JSONResponse([len(self._client.streams), self._client.num_open])
        await app(scope, receive, send)


def main(port: str, grace_s: str) -> None:
    script = _Script()
    client = scripted_client(script)
    app = make_app(client, stream_resume_grace=float(grace_s), served_model_name=(MODEL, *OTHER_NAMES))
    uvicorn.run(_Observed(app, client, script), host="127.0.0.1", port=int(port), log_config=None, lifespan="off")


if __name__ == "__main__":
    main(*sys.argv[1:])
