"""GrammarVocabulary: a model's tokens, as llguidance reads them."""

import re
import secrets
from dataclasses import dataclass

import llguidance
import msgspec

# The library's words where one step takes more expressions, states or items than its limits allow.
_BEYOND_LIMITS = re.compile(r"too many (?:expressions|states|items)|items; max is", re.IGNORECASE)


class TokenizerSource(msgspec.Struct, frozen=True):
    """All that a process needs to know of a model to compile grammars for it."""

    tokenizer_json: bytes
    vocab_size: int  # width of the output layer
    eos_token_ids: list[int]


@dataclass(frozen=True, slots=True)
class GrammarVocabulary:
    """A model's vocabulary as llguidance reads it. Slow to make: a second for 150,000 tokens."""

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
        """Return a new matcher; its `get_error` says whether the grammar could be compiled. Releases Python's lock."""
        return llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=_LIMITS)


def is_beyond_limits(reason: str) -> bool:
    """Whether the library's message says that the grammar is too complex."""
    return _BEYOND_LIMITS.search(reason) is not None


def _unspelled(tokenizer_json: bytes) -> str:
    """Return the tokenizer with its special tokens renamed, so that no text of a grammar spells one.

    A key or a value that reads <|im_end|> is text: it must be forced in ordinary tokens. Grammars name special tokens
    by their ids. llguidance takes for special: tokens that are, and tokens that were added with a text like <this>.
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
