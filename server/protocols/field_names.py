"""client_names: other protocols than OpenAI's chat become chats, and errors still speak of the client's own fields."""

import contextlib
from collections.abc import Iterator, Mapping

from engine.errors import InvalidRequest


@contextlib.contextmanager
def client_names(names: Mapping[str, str]) -> Iterator[None]:
    """Within it, an InvalidRequest about a field of a chat is raised as one about the client's field.

    names: chat's top-level fields and what the client calls them, such as {"max_tokens": "max_output_tokens"}.
    """
    try:
        yield
    except InvalidRequest as error:
        param = error.param or ""
        field = param.partition(".")[0].partition("[")[0]
        if field not in names:
            raise
        error.param = names[field] + param[len(field) :]
        error.args = (str(error).replace(field, names[field], 1), *error.args[1:])
        raise
