"""Session: a conversation at the terminal, with its /commands."""

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
    """A conversation at the terminal. read: shows a prompt and returns one line of input; raises EOFError at the end of
    input and KeyboardInterrupt at Ctrl-C."""

    def __init__(
        self, client: ChatClient, talk: Talk, console: Console, read: Callable[[str], str], notes: Console | None = None
    ) -> None:
        """console: where answers are printed. notes: where other messages are printed; None: the same console."""
        self.num_problems = 0  # that were shown
        self._client = client
        self._talk = talk
        self._console = console
        self._notes = notes or console
        self._read = read
        self._usage = ""  # of the last answer, once it is complete

    def run(self) -> None:
        """Chat until /exit or the end of input."""
        while True:
            try:
                text = self._message()
            except EOFError:
                return
            except KeyboardInterrupt:
                self._note("(Ctrl-D or /exit leaves)")
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
                self._note(str(problem), style="red")

    def _message(self) -> str:
        """Read a message: one line, or several between triple quotes. Asks again for an empty one."""
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
        """Generate the last answer again. The old one is kept if no new one arrives."""
        before = list(self._talk.messages)
        self._talk.drop_answer()
        try:
            self._answer()
        finally:
            if self._talk.messages[-1]["role"] == "user":
                self._talk.messages[:] = before

    def _answer(self) -> None:
        """Stream the next answer to the console. After Ctrl-C or an error, the part that arrived is kept."""
        parts: list[str] = []
        self._usage = ""
        try:
            with contextlib.closing(self._chunks()) as chunks, BlockWriter(self._console) as writer:
                for text in chunks:
                    parts.append(text)
                    writer.write(text)
            if self._usage:
                self._note(self._usage)
        except KeyboardInterrupt:
            self._note("(stopped)")
        finally:
            if parts:
                self._talk.answered("".join(parts))

    def _chunks(self) -> Generator[str]:
        """Yield the answer's text as it arrives, and set the usage line at its end."""
        started_s, first_s, is_thinking = time.monotonic(), None, False
        usage = None
        for chunk in self._client.stream("/v1/chat/completions", self._talk.body()):
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", []):
                thought = choice["delta"].get("reasoning_content")
                if thought and not is_thinking:
                    is_thinking = True
                    self._note("(thinking)")
                if text := choice["delta"].get("content"):
                    first_s = first_s or time.monotonic()
                    yield text
        if usage is not None and first_s is not None:
            self._usage = usage_line(usage, first_s - started_s, time.monotonic() - first_s)

    def _command(self, text: str) -> bool:
        """Run a /command; return False if it is unknown."""
        name, _, words = text.partition(" ")
        words, talk = words.strip(), self._talk
        match name:
            case "/help" | "/?":
                self._note(HELP)
            case "/clear":
                talk.messages.clear()
                self._note("a new conversation")
            case "/system":
                talk.system = words or None
                self._note("the system prompt is set" if words else "no system prompt")
            case "/set":
                self._note(talk.set(words))
            case "/show":
                self._note(f"model {talk.model}\nsystem {talk.system or '-'}\nsettings {talk.settings or '-'}")
            case "/file":
                self._ask(with_file(words))
            case "/retry":
                self._retry()
            case "/undo":
                talk.undo()
                self._note(f"{counted(len(talk.messages), 'message')} left")
            case "/save":
                talk.save(Path(words or "conversation.md").expanduser())
                self._note(f"saved to {words or 'conversation.md'}")
            case "/model":
                self._model(words)
            case _:
                return False
        return True

    def _model(self, name: str) -> None:
        served = self._client.chat_models()
        if name and name not in served:
            raise CommandProblem(f"{name} is not served, or cannot chat; chat models are {', '.join(served) or 'none'}")
        self._talk.model = name or self._talk.model
        self._note("\n".join(f"{'*' if each == self._talk.model else ' '} {each}" for each in served))

    def _note(self, text: str, style: str = "dim") -> None:
        self._notes.print(text, style=style, highlight=False, markup=False)


def usage_line(usage: dict[str, object], first_s: float, rest_s: float) -> str:
    """Return a line with an answer's token counts and speed. first_s, rest_s: time to the first token, and after it."""
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
    """Give `input` line editing, search and a history over sessions, if Python has readline."""
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
