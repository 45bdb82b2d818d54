"""example_request: a command with which to try the server, once it is ready."""

import shlex

from engine.protocol import EngineInfo, PoolingTask
from server.commands.listener import UNIX_SCHEME

_STORY = "Tell me a story about a river."
_CHAT = ("/v1/chat/completions", f'{{"messages": [{{"role": "user", "content": "{_STORY}"}}], "stream": true}}')
_EMBEDDING = ("/v1/embeddings", '{"input": ["What floats?", "A boat floats."]}')
_RERANKING = ("/v1/rerank", '{"query": "What floats?", "documents": ["A stone sinks.", "A boat floats."]}')
_CLASSIFYING = ("/classify", '{"input": "I have never had a better meal."}')
_COMPLETION = ("/v1/completions", '{"prompt": "A headrace is", "max_tokens": 64, "stream": true}')


def example_request(url: str, info: EngineInfo, *, has_chat: bool, has_key: bool) -> str:
    """curl, with a request that the model answers. url: of the server."""
    path, body = _example(info, has_chat=has_chat)
    to_socket = ""
    if url.startswith(UNIX_SCHEME):
        to_socket, url = f"--unix-socket {shlex.quote(url.removeprefix(UNIX_SCHEME))} ", "http://localhost"
    key = '-H "authorization: Bearer YOUR_KEY" ' if has_key else ""  # never the key: logs are read by many
    return f"curl -N {to_socket}{url}{path} {key}-H 'content-type: application/json' -d '{body}'"


def _example(info: EngineInfo, *, has_chat: bool) -> tuple[str, str]:
    """Path and body."""
    if info.pooling is None:
        return _CHAT if has_chat else _COMPLETION
    if PoolingTask.EMBED in info.pooling.tasks:
        return _EMBEDDING
    return _RERANKING if PoolingTask.SCORE in info.pooling.tasks else _CLASSIFYING
