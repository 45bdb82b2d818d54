"""client_names: other protocols than OpenAI's chat become chats, and errors still speak of the client's own fields."""

import contextlib
from collections.abc import Iterator, Mapping

from engine.errors import InvalidRequest


@contextlib.contextmanager
def client_names(names: Mapping[str, str]) -> Iterator[None]:
    """Within it, an InvalidRequest about a field of a chat is raised as one about the client's field.

    names: chat's fields, or paths within them, and what the client calls them, such as
    {"max_tokens": "max_output_tokens", "messages[1]": "input[0]"}.
    """
    try:
        yield
    except InvalidRequest as error:
        param = error.param or ""
        known = _known(names, param)
        if known is None:
            raise
        path = client_path(names, param)
        given = next((part for part in (param, known) if part in str(error)), param)
        error.args = (str(error).replace(given, path if given == param else names[known], 1), *error.args[1:])
        error.param = path
        raise


def client_path(names: Mapping[str, str], path: str) -> str:
    """What the client calls the field at `path` of a chat."""
    known = _known(names, path)
    return path if known is None else names[known] + path[len(known) :]


def _known(names: Mapping[str, str], path: str) -> str | None:
    """The longest beginning of the path that has a name of the client's."""
    end = len(path)
    while end > 0:
        if path[:end] in names:
            return path[:end]
        end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
    return None
