"""The commands of the terminal: their grammar, and what each does."""

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from engine.errors import OptionError, StartupError
from server.commands.arguments import HelpFormatter, Parser
from server.commands.chat.blocks import without_control
from server.commands.chat.client import ChatClient, ServerProblem
from server.commands.chat.monitor import requests_table, screen, summary
from server.commands.chat.server import DEFAULT_URL, is_url, runs_here, started
from server.commands.chat.session import Session, line_editing
from server.commands.chat.talk import Talk
from server.commands.options import CLIENT_KEY_VARIABLE

_HISTORY = Path("~/.local/state/headrace/chat_history")


def chat(argv: Sequence[str]) -> int:
    """Talk with a model until the input ends. Raises OptionError or StartupError; exits for --help."""
    parser = _parser("chat", "Talk with a model in the terminal; /help lists what you can do there.")
    _add_server(parser)
    parser.add_argument("--system", metavar="TEXT", help="System prompt.")
    namespace = _parse(parser, argv)
    console = Console(highlight=False)
    with _client(namespace) as client:
        talk = Talk(model=_model(client, namespace.served_model), system=namespace.system)
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            console.print(f"{talk.model} at {client.url}; /help lists the commands, Ctrl-D leaves", style="dim")
        read = input if is_terminal else _read_piped
        notes = console if is_terminal else Console(stderr=True, highlight=False)
        with line_editing(_HISTORY.expanduser()) if is_terminal else contextlib.nullcontext():
            session = Session(client, talk, console, read, notes)
            session.run()
    return 1 if session.num_problems and not is_terminal else 0


def complete(argv: Sequence[str]) -> int:
    """Continue a text, to stdout. Raises OptionError or StartupError; exits for --help."""
    parser = _parser("complete", "Continue a text and print what follows.")
    parser.add_argument("prompt", metavar="TEXT", help="Text to continue; - reads it from the input.")
    _add_server(parser)
    parser.add_argument("--max-tokens", type=int, default=256, metavar="N", help="Longest output (default: 256).")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 always takes the likeliest token.")
    namespace = _parse(parser, argv)
    prompt = sys.stdin.read() if namespace.prompt == "-" else namespace.prompt
    with _client(namespace) as client:
        body: dict[str, Any] = {"model": _model(client, namespace.served_model), "prompt": prompt}
        body["max_tokens"] = namespace.max_tokens
        shown: Callable[[str], str] = without_control if sys.stdout.isatty() else str
        if namespace.temperature is not None:
            body["temperature"] = namespace.temperature
        try:
            with contextlib.closing(client.stream("/v1/completions", body)) as chunks:
                for chunk in chunks:
                    sys.stdout.write(shown("".join(choice["text"] for choice in chunk["choices"])))
                    sys.stdout.flush()
        except ServerProblem as problem:
            raise StartupError(str(problem)) from None
    sys.stdout.write("\n")
    return 0


def ps(argv: Sequence[str]) -> int:
    """List what a server is doing. Raises OptionError or StartupError; exits for --help."""
    parser = _parser("ps", "List the requests of a server that runs.")
    _add_url(parser)
    namespace = _parse(parser, argv)
    console = Console(highlight=False)
    with _running(namespace) as client, _told():
        frame = next(client.frames())
        console.print(", ".join(client.models()), f"at {client.url}")
    console.print(summary(frame))
    if frame["open"]:
        console.print(requests_table(frame["open"]))
    return 0


def top(argv: Sequence[str]) -> int:
    """Show what a server is doing until Ctrl-C. Raises OptionError or StartupError; exits for --help."""
    parser = _parser("top", "Show what a server that runs is doing, four times a second; Ctrl-C leaves.")
    _add_url(parser)
    namespace = _parse(parser, argv)
    recent: list[dict[str, Any]] = []
    with _running(namespace) as client, _told(), contextlib.suppress(KeyboardInterrupt):
        frames = client.frames()
        first = next(frames)  # before the screen is taken: what the server refuses is told on the one there is
        with Live(screen=True, auto_refresh=False) as live:
            for frame in itertools.chain([first], frames):
                recent = recent if frame["recent"] is None else frame["recent"]
                live.update(screen(frame, recent), refresh=True)
    return 0


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return Parser(prog=f"headrace {name}", description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "where",
        nargs="?",
        metavar="MODEL|URL",
        help="A model to serve for this, or the address of a server that runs "
        f"(default: the one at {DEFAULT_URL}, else the demo model).",
    )
    _add_key(parser)
    parser.add_argument("--served-model", metavar="NAME", help="Which of the server's models (default: its first).")


def _add_url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", default=DEFAULT_URL, metavar="URL", help=f"Server (default: {DEFAULT_URL}).")
    _add_key(parser)


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help=f"File with the server's key; {CLIENT_KEY_VARIABLE} may have it too.",
    )


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        raise OptionError(f"unexpected argument {unknown[0]}")
    return namespace


@contextlib.contextmanager
def _client(namespace: argparse.Namespace) -> Iterator[ChatClient]:
    """Of the server that is named, runs here, or is started."""
    with contextlib.ExitStack() as stack:
        url = namespace.where
        if url is None and runs_here():
            url = DEFAULT_URL
        elif url is None or not is_url(url):
            url = stack.enter_context(started(url))
        yield stack.enter_context(ChatClient(url, _key(namespace)))


def _running(namespace: argparse.Namespace) -> ChatClient:
    if not is_url(namespace.url):
        raise OptionError(f"URL must begin with http:// or https://, not {namespace.url!r}")
    return ChatClient(namespace.url, _key(namespace))


def _key(namespace: argparse.Namespace) -> str | None:
    if namespace.key_file is None:
        return os.environ.get(CLIENT_KEY_VARIABLE)
    try:
        return Path(namespace.key_file).read_text().strip()
    except OSError as error:
        raise OptionError(f"--key-file {namespace.key_file}: {error.strerror}") from None


def _model(client: ChatClient, name: str | None) -> str:
    with _told():
        return name or client.models()[0]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the server refuses ends the command with its words."""
    try:
        yield
    except ServerProblem as problem:
        raise StartupError(str(problem)) from None


def _read_piped(_: str) -> str:
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line
