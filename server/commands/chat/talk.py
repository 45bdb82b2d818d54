"""Talk: the messages and settings of a conversation, and the /commands that change them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HELP = """\
/help                  this list
/clear                 start a new conversation
/system TEXT           set the system prompt; without TEXT, remove it
/set NAME VALUE        set temperature, top_p, top_k, min_p, max_tokens, seed, stop, ...; without VALUE, unset it
/show                  show the settings
/file PATH [TEXT]      send a text file, and TEXT with it
/retry                 ask for another answer to the last question
/undo                  remove the last question and its answer
/save PATH             write the conversation to a file, as Markdown; .json: as messages
/model [NAME]          list the server's models, or switch to one
/exit                  leave (or Ctrl-D); Ctrl-C stops an answer

\"\"\" starts and ends a message of several lines."""

_MAX_FILE_BYTES = 1 << 20


class CommandProblem(Exception):
    """A command that cannot be run; the message explains why."""


@dataclass(slots=True)
class Talk:
    """A conversation's messages and settings, all of which are sent with each question."""

    model: str
    system: str | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return the request body that asks for the next answer."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return {"model": self.model, "messages": [*system, *self.messages], **self.settings}

    def ask(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def answered(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def drop_answer(self) -> None:
        """Remove the last answer, if it is the last message. Raises CommandProblem if there is no question."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        if not self.messages:
            raise CommandProblem("there is no question yet")

    def undo(self) -> None:
        """Remove the last question and its answer. Raises CommandProblem if there is no question."""
        self.drop_answer()
        self.messages.pop()

    def set(self, words: str) -> str:
        """Set a request field by `NAME VALUE`; VALUE may be JSON. Return a confirmation. Raises CommandProblem if the
        field cannot be set."""
        name, _, value = words.partition(" ")
        if not name:
            raise CommandProblem("say what to set, as in /set temperature 0.2")
        if name in {"model", "messages", "stream"}:
            raise CommandProblem(f"{name} is not a setting")
        if not value.strip():
            self.settings.pop(name, None)
            return f"{name} is the server's default"
        try:
            self.settings[name] = json.loads(value)
        except ValueError:
            self.settings[name] = value.strip()
        return f"{name} is {json.dumps(self.settings[name])}"

    def save(self, path: Path) -> None:
        """Write the messages to a file. Raises CommandProblem if the file cannot be written."""
        if path.suffix == ".json":
            text = json.dumps(self.body()["messages"], ensure_ascii=False, indent=2)
        else:
            titles = {"user": "You", "assistant": "Answer", "system": "System"}
            parts = (f"## {titles[each['role']]}\n\n{each['content']}" for each in self.body()["messages"])
            text = "\n\n".join(parts)
        try:
            path.write_text(text + "\n")
        except OSError as error:
            raise CommandProblem(f"{path} cannot be written: {error.strerror}") from None


def with_file(words: str) -> str:
    """Return the message of `/file PATH TEXT`: the file in a code fence, then the text. Raises CommandProblem if the
    file is missing, too large or not text."""
    name, _, text = words.partition(" ")
    if not name:
        raise CommandProblem("say which file, as in /file notes.txt What is missing here?")
    path = Path(name).expanduser()
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise CommandProblem(f"{path} has {path.stat().st_size} bytes; the limit is {_MAX_FILE_BYTES}")
        content = path.read_text()
    except UnicodeDecodeError:
        raise CommandProblem(f"{path} is not a text file in UTF-8") from None
    except OSError as error:
        raise CommandProblem(f"{path} cannot be read: {error.strerror}") from None
    fence = "```"
    while fence in content:
        fence += "`"
    return f"{path.name}:\n{fence}\n{content}\n{fence}\n\n{text}".rstrip()
