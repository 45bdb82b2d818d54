"""What tests of the API's description share."""

import msgspec
from tokenizers import AddedToken, Tokenizer

from engine.protocol import EngineInfo
from server.routes.docs import OPERATIONS
from tests.helpers.fake_client import byte_tokenizer, engine_info

# Operations for models that pool texts.
_ERRORS = OPERATIONS["POST /v1/embeddings"].errors
POOLING = frozenset(name for name, each in OPERATIONS.items() if each.errors == _ERRORS)


def fim_info(**changes: object) -> EngineInfo:
    """The fake engine's info with the tokens that filling in the middle needs."""
    tokenizer = Tokenizer.from_buffer(byte_tokenizer())
    tokenizer.add_special_tokens([AddedToken(text) for text in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")])
    info = engine_info(**changes)
    renewed = msgspec.structs.replace(info.tokenizer, tokenizer_json=tokenizer.to_str().encode())
    return msgspec.structs.replace(info, tokenizer=renewed)
