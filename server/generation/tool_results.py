"""check_results: whether messages with results of tools say which calls they answer."""

from collections.abc import Sequence

from engine.errors import InvalidRequest
from server.schemas.base import quote
from server.schemas.chat import Message

_MAX_NAMED = 4  # ids in a message


def check_results(messages: Sequence[Message]) -> None:
    """Raise InvalidRequest for a result without an id, and for one that follows calls and answers none of them.

    A result of a call that is not in the conversation is accepted, unless it follows other calls: agents that forget
    the beginning of a long conversation may keep a result and not its call. OpenAI's API refuses these as well.
    """
    known: set[str] = set()
    calls: list[str] = []  # those that the results here answer; none where one of them has no id
    for index, message in enumerate(messages):
        if message.role == "assistant":
            ids = [call.id for call in message.tool_calls or []]
            calls = [call_id for call_id in ids if call_id] if all(ids) else []
            known.update(call_id for call_id in ids if call_id)
        elif message.role == "tool":
            _check_result(message.tool_call_id, f"messages[{index}].tool_call_id", known, calls)
        else:
            calls = []


def _check_result(call_id: str | None, path: str, known: set[str], calls: Sequence[str]) -> None:
    if not call_id:
        fault = "missing" if call_id is None else "empty"
        raise InvalidRequest(f"{path} is {fault}; a message of role tool must give the id of its call", param=path)
    if calls and call_id not in known:
        named = ", ".join(quote(each) for each in calls[:_MAX_NAMED]) + (", ..." if len(calls) > _MAX_NAMED else "")
        raise InvalidRequest(
            f"{path} is {quote(call_id)}, and the calls that it follows are {named}; give the id of one of them",
            param=path,
        )
