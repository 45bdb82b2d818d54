"""A conversation at the terminal, with a client that plays a script."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from server.commands.chat.client import ServerProblem
from server.commands.chat.session import Session
from server.commands.chat.talk import Talk

pytestmark = pytest.mark.fast

Item = str | BaseException
_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


class _Client:
    """Answers each request with the next script: texts, and what is raised between them."""

    url = "http://server"

    def __init__(self, *scripts: list[Item]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.num_closed = 0
        self._scripts = iter(scripts)

    def chat_models(self) -> list[str]:
        return ["m", "other"]

    def stream(self, _: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.bodies.append({**body, "messages": list(body["messages"])})
        try:
            for item in next(self._scripts):
                if isinstance(item, BaseException):
                    raise item
                yield {"choices": [{"delta": {"content": item}}]}
            yield {"choices": [], "usage": _USAGE}
        finally:
            self.num_closed += 1


def _run(client: _Client, *lines: Item) -> tuple[Talk, str]:
    talk, file, left = Talk(model="m"), io.StringIO(), iter(lines)

    def read(_: str) -> str:
        line = next(left, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    Session(client, talk, Console(file=file, width=200), read).run()  # type: ignore[arg-type]
    return talk, file.getvalue()


def _texts(talk: Talk) -> list[str]:
    return [message["content"] for message in talk.messages]


def test_questions_and_answers() -> None:
    client = _Client(["Hel", "lo"], ["Bye"])
    talk, shown = _run(client, "hi", "", "and now?")
    assert _texts(talk) == ["hi", "Hello", "and now?", "Bye"]
    assert [each["content"] for each in client.bodies[1]["messages"]] == ["hi", "Hello", "and now?"]
    assert "Hello\n" in shown
    assert "[9 prompt tokens, 4 from the cache; first after" in shown


def test_ctrl_c_stops_the_answer_alone() -> None:
    client = _Client(["Half", KeyboardInterrupt()], ["Whole"])
    talk, shown = _run(client, "one", KeyboardInterrupt(), "two")
    assert _texts(talk) == ["one", "Half", "two", "Whole"]
    assert "(stopped)" in shown
    assert "(Ctrl-D or /exit leaves)" in shown
    assert client.num_closed == 2


def test_an_error_is_told_and_the_question_can_be_asked_again() -> None:
    client = _Client([ServerProblem("503: the engine is starting")], ["Fine"])
    talk, shown = _run(client, "one", "one")
    assert "503: the engine is starting" in shown
    assert _texts(talk) == ["one", "Fine"]


@pytest.mark.parametrize("fault", [ServerProblem("503: the engine is starting"), KeyboardInterrupt()])
def test_a_retry_of_which_nothing_comes_forgets_nothing(fault: BaseException) -> None:
    talk, _ = _run(_Client(["Good"], [fault]), "one", "/retry")
    assert _texts(talk) == ["one", "Good"]
    talk, _ = _run(_Client(["Good"], ["Bet", fault]), "one", "/retry")
    assert _texts(talk) == ["one", "Bet"]


def test_a_retry_after_an_answer_that_was_stopped_before_it_began() -> None:
    talk, _ = _run(_Client([KeyboardInterrupt()], [ServerProblem("503")], ["Good"]), "one", "/retry", "/retry")
    assert _texts(talk) == ["one", "Good"]


def test_notes_may_go_elsewhere_than_answers() -> None:
    answers, notes, lines = io.StringIO(), io.StringIO(), iter(["one", "/nothing"])

    def read(_: str) -> str:
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    client = _Client(["Yes"])
    session = Session(client, Talk(model="m"), Console(file=answers), read, Console(file=notes))  # type: ignore[arg-type]
    session.run()
    assert answers.getvalue() == "Yes\n"
    assert "9 prompt tokens" in notes.getvalue()
    assert "/nothing is not a command" in notes.getvalue()
    assert session.num_problems == 1


def test_several_lines() -> None:
    talk, _ = _run(_Client(["ok"], ["ok"]), '"""first', "second", 'third"""', '"""one line"""')
    assert _texts(talk)[::2] == ["first\nsecond\nthird", "one line"]


def test_commands() -> None:
    client = _Client(["a"], ["b"], ["c"])
    talk, shown = _run(
        client, "/system be brief", "/set top_k 3", "one", "/retry", "/model other", "two", "/undo", "/show"
    )
    assert [body["model"] for body in client.bodies] == ["m", "m", "other"]
    assert all(body["top_k"] == 3 and body["messages"][0]["role"] == "system" for body in client.bodies)
    assert _texts(talk) == ["one", "b"]
    assert "system be brief" in shown
    _, shown = _run(_Client(), "/nothing", "/model none", "/retry", "/help", "/exit", "never read")
    assert "/nothing is not a command" in shown
    assert "none is not served, or cannot chat; chat models are m, other" in shown
    assert "there is no question yet" in shown
