"""GrammarVocabulary: a model's tokens, as llguidance reads them."""

from dataclasses import dataclass

import llguidance
import msgspec


class TokenizerSource(msgspec.Struct, frozen=True):
    """All that a process needs to know of a model to compile grammars for it."""

    tokenizer_json: bytes
    vocab_size: int  # width of the output layer
    eos_token_ids: list[int]


@dataclass(frozen=True, slots=True)
class GrammarVocabulary:
    """Slow to make (a second for 150,000 tokens); shared by all grammars."""

    tokenizer: llguidance.LLTokenizer
    vocab_size: int
    eos_token_ids: frozenset[int]

    @classmethod
    def of(cls, source: TokenizerSource) -> "GrammarVocabulary":
        tokenizer = llguidance.LLTokenizer(
            source.tokenizer_json.decode(), n_vocab=source.vocab_size, eos_token=source.eos_token_ids
        )
        return cls(tokenizer, source.vocab_size, frozenset(source.eos_token_ids))

    def matcher(self, grammar: str) -> llguidance.LLMatcher:
        """A new matcher; its `get_error` says whether the grammar could be compiled. Releases Python's lock."""
        return llguidance.LLMatcher(self.tokenizer, grammar, log_level=0, limits=_LIMITS)


# Half of the defaults where these let a single mask take longer than a step: a mask that needs more ends its request.
_LIMITS = llguidance.LLParserLimits(verbose_errors=False)
