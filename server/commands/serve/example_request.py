"""example_request: a command to try the server with, which is shown when the server is ready."""

import shlex

from engine.protocol import EngineInfo, PoolingTask
from server.commands.serve.listener import UNIX_SCHEME

_STORY = '{"messages": [{"role": "user", "content": "Tell me a story about a river."}], "stream": true}'
_TEXT = '{"prompt": "A headrace is", "max_tokens": 64, "stream": true}'
_EMBEDDING = '{"input": ["What floats?", "A boat floats."]}'
_RERANKING = '{"query": "What floats?", "documents": ["A stone sinks.", "A boat floats."]}'
_CLASSIFYING = '{"input": "I have never had a better meal."}'


def example_request(url: str, info: EngineInfo, *, has_chat: bool, has_key: bool) -> str:
    """Return a curl command with a request that the model answers. url: of the server."""
    path, body = _example(info, has_chat=has_chat)
    to_socket = ""
    if url.startswith(UNIX_SCHEME):
        to_socket, url = f"--unix-socket {shlex.quote(url.removeprefix(UNIX_SCHEME))} ", "http://localhost"
    key = '-H "authorization: Bearer YOUR_KEY" ' if has_key else ""  # never the key: logs are read by many
    return f"curl -N {to_socket}{url}{path} {key}-H 'content-type: application/json' -d '{body}'"


def _example(info: EngineInfo, *, has_chat: bool) -> tuple[str, str]:
    """Return path and body."""
    # Imported here since endpoints import FastAPI, which takes long and is not needed to report a wrong option.
    from server.endpoints import chat, classify, completions, embeddings, rerank

    if info.pooling is None:
        return (chat.CHAT.path, _STORY) if has_chat else (completions.COMPLETIONS.path, _TEXT)
    if PoolingTask.EMBED in info.pooling.tasks:
        return embeddings.EMBEDDINGS.path, _EMBEDDING
    if PoolingTask.SCORE in info.pooling.tasks:
        return rerank.RERANK.path, _RERANKING
    return classify.CLASSIFY.path, _CLASSIFYING
