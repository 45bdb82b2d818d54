"""announce: what was chosen at the start, where the server is, and how to call it."""

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from rich.console import Console

from engine.child_processes.log_format import LogFormat
from engine.command_io.program import program
from engine.protocol import EngineInfo
from server.commands.chat.server import DEFAULT_URL
from server.commands.serve.example_request import example_request
from server.commands.serve.listener import UNIX_SCHEME, is_for_this_machine
from server.commands.serve.start_panel import Started, show_panel
from server.config.server import LogLevel, ServerConfig

if TYPE_CHECKING:
    from server.text_model import TextModel

logger = logging.getLogger(__name__)

_TELLING = (LogLevel.DEBUG, LogLevel.INFO)  # log levels of operators who want to be told of a start that went well


def announce_loading(url: str, what: str, config: ServerConfig, *, is_drawn: bool) -> None:
    """Say what is loaded, and where the server will be. is_drawn: with bars, on a terminal."""
    if is_drawn and config.log_level not in _TELLING:
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
    """Tell what was chosen, where the server is and how to call it: as a panel, or in lines.

    infos: of the loaded models, by their names. is_drawn: the start is shown with bars, on a terminal. adapters: names
    of those that are served; None where no model can have any.
    """
    _log_notes(infos, logging.DEBUG if is_drawn else logging.INFO)
    has_key = bool(config.api_key or config.api_keys_file)
    is_open = not has_key and config.network.uds is None and not is_for_this_machine(config.host)
    if is_open:
        logger.warning("there is no key: anyone who can reach %s can use the server; set HEADRACE_API_KEY", config.host)
    if config.log_format is LogFormat.JSON:  # whoever reads the lines expects no others
        logger.info("ready at %s", url)
        return
    if config.log_level not in _TELLING:
        return
    first = next(iter(infos.values()))
    has_chat = text_model.chat is not None and first.generates
    command = example_request(url, first, has_chat=has_chat, has_key=has_key)
    if is_drawn:
        names = [entry.name for entry in config.models.entries] or list(infos)
        started = Started(
            version=version("headrace"),
            address=f"{url}, and every other address of this machine" if config.host in ("0.0.0.0", "::") else url,
            models={name: infos.get(name) for name in names},
            keys=_keys(config, is_open=is_open),
            tries=[*_pages(url, has_chat=has_chat), ("API", command)],
            adapters=adapters,
            is_finetuning=adapters is not None and config.data_dir is not None,
        )
        with contextlib.suppress(OSError):  # as in _write
            show_panel(Console(file=sys.stderr, highlight=False), started)
        return
    pages = "".join(f"{label}: {what}\n" for label, what in _pages(url, has_chat=has_chat))
    _write(f"\nheadrace is ready at {url}\n{pages}API:\n\n  {command}\n\n")


def _log_notes(infos: Mapping[str, EngineInfo], level: int) -> None:
    """And warnings, at their own level; with the model's name where there are several."""
    for name, info in infos.items():
        of = f"{name}: " if len(infos) > 1 else ""
        for note in info.notes:
            logger.log(level, "%s%s", of, note)
        for warning in info.warnings:
            logger.warning("%s%s", of, warning)


def _write(text: str) -> None:
    """On stderr. A full disk or a terminal that is gone is no reason not to serve."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _pages(url: str, *, has_chat: bool) -> list[tuple[str, str]]:
    """What is there beside the API; a Unix socket has nothing that a browser could open."""
    if url.startswith(UNIX_SCHEME):
        return []
    chat = f"{program()} chat" if url == DEFAULT_URL else f"{program()} chat {url}"
    dashboard = ("Dashboard", f"{url}/dashboard")
    return [("Chat page", f"{url}/"), dashboard, ("Terminal", chat)] if has_chat else [dashboard]


def _keys(config: ServerConfig, *, is_open: bool) -> str:
    if config.api_keys_file:
        return f"needed, of {config.api_keys_file}"
    if config.api_key:
        return "needed"
    return "none, so anyone who can reach this address can use it" if is_open else "none needed on this machine"
