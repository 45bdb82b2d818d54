"""new_id: ids in OpenAI's form, which say what they are of."""

import secrets


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"
