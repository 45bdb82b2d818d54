"""The conversation at the terminal: reads, asks, shows, and obeys /commands."""

import contextlib
import importlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from rich.console import Console

from engine.wording import counted
from server.commands.chat.blocks import BlockWriter
from server.commands.chat.client import ChatClient, ServerProblem
from server.commands.chat.talk import HELP, CommandProblem, Talk, with_file

_QUOTES = '"""'
_HISTORY_LENGTH = 1000


class Session:
    """read: one line of input for a prompt; raises EOFError at its end and KeyboardInterrupt at Ctrl-C."""

    def __init__(
        self, client: ChatClient, talk: Talk, console: Console, read: Callable[[str], str], notes: Console | None = None
    ) -> None:
        """console: for answers. notes: for all else, if that is another one."""
        self.num_problems = 0  # that were told
        self._client = client
        self._talk = talk
        self._console = console
        self._notes = notes or console
        self._read = read
        self._figures = ""  # of the last answer, once it is complete

    def run(self) -> None:
        """Talk until the input ends or /exit."""
        while True:
            try:
                text = self._message()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._tell("(Ctrl-D or /exit leaves)")
                continue
            if text == "/exit":
                return
            try:
                if not text.startswith("/"):
                    self._ask(text)
                elif not self._command(text):
                    raise CommandProblem(f"{text.split()[0]} is not a command; /help lists them")
            except (CommandProblem, ServerProblem) as problem:
                self.num_problems += 1
                self._tell(str(problem), style="red")

    def _message(self) -> str:
        """One line, or several between marks; never an empty one."""
        while True:
            text = self._read(">>> ").strip()
            if text.startswith(_QUOTES):
                text = self._lines(text.removeprefix(_QUOTES))
            if text:
                return text

    def _lines(self, first: str) -> str:
        lines = [first]
        while not lines[-1].rstrip().endswith(_QUOTES):
            lines.append(self._read("... "))
        return "\n".join(lines).rstrip().removesuffix(_QUOTES).strip()

    def _ask(self, text: str) -> None:
        self._talk.ask(text)
        try:
            self._answer()
        except ServerProblem:
            if self._talk.messages[-1]["role"] == "user":
                self._talk.messages.pop()  # the question can be asked again
            raise

    def _retry(self) -> None:
        """Another answer in the place of the last one, which stays if nothing comes of the other."""
        before = list(self._talk.messages)
        self._talk.drop_answer()
        try:
            self._answer()
        finally:
            if self._talk.messages[-1]["role"] == "user":
                self._talk.messages[:] = before

    def _answer(self) -> None:
        """Show the next answer. What came of it before Ctrl-C, or an error, stays in the conversation."""
        parts: list[str] = []
        self._figures = ""
        try:
            with contextlib.closing(self._chunks()) as chunks, BlockWriter(self._console) as writer:
                for text in chunks:
                    parts.append(text)
                    writer.write(text)
            if self._figures:
                self._tell(self._figures)
        except KeyboardInterrupt:
            self._tell("(stopped)")
        finally:
            if parts:
                self._talk.answered("".join(parts))

    def _chunks(self) -> Generator[str]:
        """The answer's text as it comes; at its end there are its figures."""
        begun_s, first_s, is_thinking = time.monotonic(), None, False
        usage = None
        for chunk in self._client.stream("/v1/chat/completions", self._talk.body()):
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", []):
                thought = choice["delta"].get("reasoning_content")
                if thought and not is_thinking:
                    is_thinking = True
                    self._tell("(thinking)")
                if text := choice["delta"].get("content"):
                    first_s = first_s or time.monotonic()
                    yield text
        if usage is not None and first_s is not None:
            self._figures = figures(usage, first_s - begun_s, time.monotonic() - first_s)

    def _command(self, text: str) -> bool:
        """Obey a command; False if there is none of that name."""
        name, _, words = text.partition(" ")
        words, talk = words.strip(), self._talk
        match name:
            case "/help" | "/?":
                self._tell(HELP)
            case "/clear":
                talk.messages.clear()
                self._tell("a new conversation")
            case "/system":
                talk.system = words or None
                self._tell("the system prompt is set" if words else "no system prompt")
            case "/set":
                self._tell(talk.set(words))
            case "/show":
                self._tell(f"model {talk.model}\nsystem {talk.system or '-'}\nsettings {talk.settings or '-'}")
            case "/file":
                self._ask(with_file(words))
            case "/retry":
                self._retry()
            case "/undo":
                talk.undo()
                self._tell(f"{counted(len(talk.messages), 'message')} left")
            case "/save":
                talk.save(Path(words or "conversation.md").expanduser())
                self._tell(f"saved to {words or 'conversation.md'}")
            case "/model":
                self._model(words)
            case _:
                return False
        return True

    def _model(self, name: str) -> None:
        served = self._client.chat_models()
        if name and name not in served:
            raise CommandProblem(f"{name} is not served, or cannot chat; there is {', '.join(served) or 'none'}")
        self._talk.model = name or self._talk.model
        self._tell("\n".join(f"{'*' if each == self._talk.model else ' '} {each}" for each in served))

    def _tell(self, text: str, style: str = "dim") -> None:
        self._notes.print(text, style=style, highlight=False, markup=False)


def figures(usage: dict[str, object], first_s: float, rest_s: float) -> str:
    """What an answer cost, in a line."""
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens", 0) if isinstance(details, dict) else 0
    num_prompt, num_tokens = int(str(usage["prompt_tokens"])), int(str(usage["completion_tokens"]))
    rate = f" at {(num_tokens - 1) / rest_s:.1f}/s" if num_tokens > 1 and rest_s > 0 else ""
    from_cache = f", {cached} from the cache" if cached else ""
    return (
        f"[{counted(num_prompt, 'prompt token')}{from_cache}; first after {first_s:.2f} s; "
        f"{counted(num_tokens, 'token')}{rate}]"
    )


@contextlib.contextmanager
def line_editing(history: Path) -> Iterator[None]:
    """Arrows, search and a history over sessions, for `input`, where Python has readline."""
    try:
        readline = importlib.import_module("readline")
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(_HISTORY_LENGTH)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            history.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(history)
            history.chmod(0o600)
