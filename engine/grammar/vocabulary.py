"""GrammarVocabulary: a model's tokenizer in llguidance's form."""

import re
import secrets
from dataclasses import dataclass

import llguidance
import msgspec

# The library's words where one step takes more expressions, states or items than its limits allow.
_BEYOND_LIMITS = re.compile(r"too many (?:expressions|states|items)|items; max is", re.IGNORECASE)


class TokenizerSource(msgspec.Struct, frozen=True):
    """The parts of a model's tokenizer that a process needs to compile grammars."""

    tokenizer_json: bytes
    vocab_size: int  # width of the output layer
    eos_token_ids: list[int]


@dataclass(frozen=True, slots=True)
class GrammarVocabulary:
    """A model's tokenizer in llguidance's form. Slow to build: a second for 150,000 tokens."""

    tokenizer: llguidance.LLTokenizer
    vocab_size: int
    eos_token_ids: frozenset[int]

    @classmethod
    def of(cls, source: TokenizerSource) -> "GrammarVocabulary":
        tokenizer = llguidance.LLTokenizer(
            _unspelled(source.tokenizer_json), n_vocab=source.vocab_size, eos_token=source.eos_token_ids
        )
        return cls(tokenizer, source.vocab_size, frozenset(source.eos_token_ids))

    def matcher(self, grammar: str) -> llguidance.LLMatcher:
        """Compile a grammar; the matcher's `get_error` is not empty if that failed. Releases the GIL."""
        return llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=_LIMITS)


def is_beyond_limits(reason: str) -> bool:
    """Return whether llguidance's error message says that the grammar exceeds a complexity limit."""
    return _BEYOND_LIMITS.search(reason) is not None


def _unspelled(tokenizer_json: bytes) -> str:
    """Return tokenizer_json with the special tokens renamed to random names that no grammar text can spell.

    A JSON key or value that reads <|im_end|> is text and must be tokenized as ordinary tokens; grammars refer to
    special tokens by id. llguidance also treats added tokens with a text like <this> as special, so these are renamed
    too.
    """
    tokenizer = msgspec.json.decode(tokenizer_json)
    secret = secrets.token_hex(8)
    names = {
        token["content"]: f"<{secret}-{token['id']}>"
        for token in tokenizer["added_tokens"]
        if token["special"] or (token["content"].startswith("<") and token["content"].endswith(">"))
    }
    for token in tokenizer["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    vocabulary = tokenizer["model"].get("vocab")
    if isinstance(vocabulary, dict):
        tokenizer["model"]["vocab"] = {names.get(text, text): token_id for text, token_id in vocabulary.items()}
    elif vocabulary is not None:
        tokenizer["model"]["vocab"] = [[names.get(text, text), score] for text, score in vocabulary]
    return msgspec.json.encode(tokenizer).decode()


# Half of the defaults, which allow a single mask to take longer than a step: a mask that needs more ends its request.
_LIMITS = llguidance.LLParserLimits(verbose_errors=False)
