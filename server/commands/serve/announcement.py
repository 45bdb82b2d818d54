"""announce: reports at the end of a start which model runs with which settings, the URL, and an example request."""

import contextlib
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from engine.child_processes.log_format import LogFormat
from engine.command_io.program import program
from engine.protocol import EngineInfo, PoolingTask
from server.commands.chat.server import DEFAULT_URL
from server.commands.serve.listener import UNIX_SCHEME, is_for_this_machine
from server.commands.serve.start_panel import PanelContent, show_panel
from server.config.server import LogLevel, ServerConfig
from server.served.adapter_dir import adapters_in

if TYPE_CHECKING:
    from server.text_model import TextModel

logger = logging.getLogger(__name__)

_STORY = '{"messages": [{"role": "user", "content": "Tell me a story about a river."}], "stream": true}'
_TEXT = '{"prompt": "A headrace is", "max_tokens": 64, "stream": true}'
_EMBEDDING = '{"input": ["What floats?", "A boat floats."]}'
_RERANKING = '{"query": "What floats?", "documents": ["A stone sinks.", "A boat floats."]}'
_CLASSIFICATION = '{"input": "I have never had a better meal."}'

_VERBOSE = (LogLevel.DEBUG, LogLevel.INFO)  # log levels at which a successful start is reported


def announce_loading(url: str, what: str, config: ServerConfig, *, is_drawn: bool) -> None:
    """Report the server's address and the models being loaded. is_drawn: whether progress bars follow on a terminal."""
    if is_drawn and config.log_level not in _VERBOSE:
        return
    if is_drawn:
        _write(f"Loading {what}; {url} answers when it is ready.\n")
    else:
        logger.info("listening on %s, loading %s", url, what)


def announce(
    infos: Mapping[str, EngineInfo],
    text_model: "TextModel",
    url: str,
    config: ServerConfig,
    *,
    is_drawn: bool,
    adapters: Sequence[str] | None = None,
) -> None:
    """Report the loaded models and their settings, the server's address and an example request.

    infos: EngineInfo of the loaded models, by name. is_drawn: whether to draw a panel instead of plain lines. adapters:
    names of the served adapters; None if no model supports adapters.
    """
    _log_notes(infos, logging.DEBUG if is_drawn else logging.INFO)
    has_key = bool(config.api_key or config.api_keys_file)
    is_open = not has_key and config.network.uds is None and not is_for_this_machine(config.host)
    if is_open:
        logger.warning("there is no key: anyone who can reach %s can use the server; set HEADRACE_API_KEY", config.host)
    if config.log_format is LogFormat.JSON:  # programs that parse the log expect no other lines
        logger.info("ready at %s", url)
        return
    if config.log_level not in _VERBOSE:
        return
    first = next(iter(infos.values()))
    has_chat = text_model.chat is not None and first.generates
    command = example_request(url, first, has_chat=has_chat, has_key=has_key)
    if is_drawn:
        names = [entry.name for entry in config.models.entries] or list(infos)
        content = PanelContent(
            version=version("headrace"),
            address=f"{url}, and every other address of this machine" if config.host in ("0.0.0.0", "::") else url,
            models={name: infos.get(name) for name in names},
            keys=_keys(config, is_open=is_open),
            tries=[*_pages(url, has_chat=has_chat), ("API", command)],
            adapters=adapters,
            loadable=[] if config.lora.adapter_dir is None else _loadable(Path(config.lora.adapter_dir), adapters),
            is_finetuning=adapters is not None and config.data_dir is not None,
        )
        with contextlib.suppress(OSError):  # as in _write
            show_panel(Console(file=sys.stderr, highlight=False), content)
        return
    pages = "".join(f"{label}: {what}\n" for label, what in _pages(url, has_chat=has_chat))
    _write(f"\nheadrace is ready at {url}\n{pages}API:\n\n  {command}\n\n")


def _loadable(folder: Path, served: Sequence[str] | None) -> list[str]:
    return [name for name in adapters_in(folder) if name not in (served or ())]


def _log_notes(infos: Mapping[str, EngineInfo], level: int) -> None:
    """Log each engine's notes at `level` and its warnings as warnings, with the model's name if there are several."""
    for name, info in infos.items():
        prefix = f"{name}: " if len(infos) > 1 else ""
        for note in info.notes:
            logger.log(level, "%s%s", prefix, note)
        for warning in info.warnings:
            logger.warning("%s%s", prefix, warning)


def _write(text: str) -> None:
    """Write to stderr; ignore errors, since a full disk or closed terminal must not stop the server."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _pages(url: str, *, has_chat: bool) -> list[tuple[str, str]]:
    """Return (label, URL or command) of the pages and commands to try; none for a Unix socket."""
    if url.startswith(UNIX_SCHEME):
        return []
    chat = f"{program()} chat" if url == DEFAULT_URL else f"{program()} chat {url}"
    dashboard = ("Dashboard", f"{url}/dashboard")
    return [("Chat page", f"{url}/"), dashboard, ("Terminal", chat)] if has_chat else [dashboard]


def _keys(config: ServerConfig, *, is_open: bool) -> str:
    if config.api_keys_file:
        return f"required, from {config.api_keys_file}"
    if config.api_key:
        return "required"
    return "none, so anyone who can reach this address can use it" if is_open else "not required on this machine"


def example_request(url: str, info: EngineInfo, *, has_chat: bool, has_key: bool) -> str:
    """Return a curl command with an example request for the model. url: base URL of the server."""
    path, body = _example(info, has_chat=has_chat)
    to_socket = ""
    if url.startswith(UNIX_SCHEME):
        to_socket, url = f"--unix-socket {shlex.quote(url.removeprefix(UNIX_SCHEME))} ", "http://localhost"
    key = '-H "authorization: Bearer YOUR_KEY" ' if has_key else ""  # never the key itself, since many people read logs
    return f"curl -N {to_socket}{url}{path} {key}-H 'content-type: application/json' -d '{body}'"


def _example(info: EngineInfo, *, has_chat: bool) -> tuple[str, str]:
    """Return the path and body of an example request for the model."""
    # Imported here since endpoints import FastAPI, which takes long and is not needed to report a wrong option.
    from server.endpoints import chat, classify, completions, embeddings, rerank

    if info.pooling is None:
        return (chat.CHAT.path, _STORY) if has_chat else (completions.COMPLETIONS.path, _TEXT)
    if PoolingTask.EMBED in info.pooling.tasks:
        return embeddings.EMBEDDINGS.path, _EMBEDDING
    if PoolingTask.SCORE in info.pooling.tasks:
        return rerank.RERANK.path, _RERANKING
    return classify.CLASSIFY.path, _CLASSIFICATION
