"""example_request: a command with which to try the server, once it is ready."""

import json
import shlex
from typing import Any

from engine.protocol import EngineInfo, PoolingTask
from server.commands.listener import UNIX_SCHEME
from server.endpoints.binding.endpoint import Endpoint
from server.endpoints.chat import CHAT
from server.endpoints.classify import CLASSIFY
from server.endpoints.completions import COMPLETIONS
from server.endpoints.embeddings import EMBEDDINGS
from server.endpoints.rerank import RERANK
from server.openapi.operation import EVENTS


def example_request(url: str, info: EngineInfo, *, has_chat: bool, has_key: bool) -> str:
    """curl, with a request that the model answers. url: of the server."""
    endpoint = _example(info, has_chat=has_chat)
    to_socket = ""
    if url.startswith(UNIX_SCHEME):
        to_socket, url = f"--unix-socket {shlex.quote(url.removeprefix(UNIX_SCHEME))} ", "http://localhost"
    key = '-H "authorization: Bearer YOUR_KEY" ' if has_key else ""  # never the key: logs are read by many
    return f"curl -N {to_socket}{url}{endpoint.path} {key}-H 'content-type: application/json' -d '{_body(endpoint)}'"


def _example(info: EngineInfo, *, has_chat: bool) -> Endpoint[Any]:
    if info.pooling is None:
        return CHAT if has_chat else COMPLETIONS
    if PoolingTask.EMBED in info.pooling.tasks:
        return EMBEDDINGS
    return RERANK if PoolingTask.SCORE in info.pooling.tasks else CLASSIFY


def _body(endpoint: Endpoint[Any]) -> str:
    """Return the endpoint's example, without a model since the server's first model answers, as a stream if it can."""
    fields = {name: value for name, value in endpoint.example.items() if name != "model"}
    if EVENTS in endpoint.answers:
        fields["stream"] = True
    return json.dumps(fields)
