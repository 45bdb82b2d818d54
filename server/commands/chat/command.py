"""Entry points of the commands chat, complete, ps and top."""

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rich.console import Console
from rich.live import Live

from server.commands.chat.arguments import chat_parser, complete_parser, ps_parser, top_parser
from server.commands.chat.blocks import without_control
from server.commands.chat.client import ChatClient, ServerProblem
from server.commands.chat.connecting import connect, connect_or_start
from server.commands.chat.monitor import open_requests, requests_table, screen, summary
from server.commands.chat.session import Session, line_editing
from server.commands.chat.talk import Talk

_HISTORY = Path("~/.local/state/headrace/chat_history")
_PIPED_WIDTH = 240


def run_chat(argv: Sequence[str]) -> int:
    """Chat with a model until the input ends. Raises OptionError or StartupError; exits for --help."""
    namespace = chat_parser().parse_args(argv)
    console = Console(highlight=False)
    with connect_or_start(namespace) as client:
        talk = Talk(model=namespace.served_model or _first_model(client), system=namespace.system)
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            console.print(f"{talk.model} at {client.url}; /help lists the commands, Ctrl-D leaves", style="dim")
        read = input if is_terminal else _read_piped
        notes = console if is_terminal else Console(stderr=True, highlight=False)
        with line_editing(_HISTORY.expanduser()) if is_terminal else contextlib.nullcontext():
            session = Session(client, talk, console, read, notes)
            session.run()
    return 1 if session.num_problems and not is_terminal else 0


def run_complete(argv: Sequence[str]) -> int:
    """Print the continuation of a text. Raises OptionError or StartupError; exits for --help."""
    namespace = complete_parser().parse_args(argv)
    prompt = sys.stdin.read() if namespace.prompt == "-" else namespace.prompt
    with connect_or_start(namespace) as client:
        body: dict[str, Any] = {"model": namespace.served_model or _first_model(client), "prompt": prompt}
        body["max_tokens"] = namespace.max_tokens
        shown: Callable[[str], str] = without_control if sys.stdout.isatty() else str
        if namespace.temperature is not None:
            body["temperature"] = namespace.temperature
        with contextlib.closing(client.stream("/v1/completions", body)) as chunks:
            for chunk in chunks:
                sys.stdout.write(shown("".join(choice["text"] for choice in chunk["choices"])))
                sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def run_ps(argv: Sequence[str]) -> int:
    """List the running requests of a server. Raises OptionError or StartupError; exits for --help."""
    namespace = ps_parser().parse_args(argv)
    console = _console()
    with connect(namespace) as client:
        frame = _snapshot(client)
        console.print(", ".join(client.models()), f"at {client.url}")
        for name, shown in _each_model(client, frame):
            console.print(f"{name}: " if name else "", summary(shown), sep="")
            if shown["open"]:
                console.print(requests_table(open_requests(shown)))
    return 0


def _each_model(client: ChatClient, frame: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, dashboard frame) of each model; name is '' if the server is old. frame: the first model's frame."""
    if not (models := frame.get("models")):  # older servers have none
        yield "", frame
        return
    yield models[0]["name"], frame
    for model in models[1:]:
        yield model["name"], _snapshot(client, model["name"])


def run_top(argv: Sequence[str]) -> int:
    """Show a server's work live until Ctrl-C, or one snapshot if piped. Raises OptionError or StartupError."""
    namespace = top_parser().parse_args(argv)
    with connect(namespace) as client, contextlib.suppress(KeyboardInterrupt):
        # Before switching screens, so that an error appears on the current one.
        shown = dict(_each_model(client, _snapshot(client)))
        if not sys.stdout.isatty():
            _console().print(screen(shown))
            return 0
        with Live(screen(shown), screen=True, auto_refresh=False) as live:
            for name, frame in frames_of_all(client, list(shown)):
                recent = shown[name]["recent"] if frame["recent"] is None else frame["recent"]
                shown[name] = {**frame, "recent": recent}
                live.update(screen(shown), refresh=True)
    return 0


def frames_of_all(client: ChatClient, names: Sequence[str]) -> Generator[tuple[str, dict[str, Any]]]:
    """Yield (name, dashboard frame) as the frames of all models arrive, until a stream ends. names: of the models; ''
    is the first one. Raises ServerProblem."""
    arrived: SimpleQueue[tuple[str, dict[str, Any]] | ServerProblem | None] = SimpleQueue()

    def read(name: str) -> None:
        try:
            for frame in client.frames(model=name or None):
                arrived.put((name, frame))
            arrived.put(None)
        except ServerProblem as error:
            arrived.put(error)

    for name in names:
        threading.Thread(target=read, args=(name,), daemon=True).start()
    while (item := arrived.get()) is not None:
        if isinstance(item, ServerProblem):
            raise item
        yield item


def _console() -> Console:
    """Return a console as wide as the terminal, or very wide for piped output, so that its lines are not wrapped."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


def _snapshot(client: ChatClient, model: str | None = None) -> dict[str, Any]:
    """Return a dashboard frame, with the requests that ended last. Raises ServerProblem."""
    first, last = client.frames(2, model)  # the first frame has no steps
    return {**last, "recent": last["recent"] or first["recent"]}


def _first_model(client: ChatClient) -> str:
    """Return the first model that generates text. Raises ServerProblem if there is none."""
    if not (names := client.chat_models()):
        raise ServerProblem(
            f"no model of {client.url} generates text; its models are {', '.join(client.models()) or 'none'}"
        )
    return names[0]


def _read_piped(_: str) -> str:
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line
