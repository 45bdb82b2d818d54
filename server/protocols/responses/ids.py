"""new_id: an id in OpenAI's form, whose prefix names the kind of object."""

import secrets


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"
