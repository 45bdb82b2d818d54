"""GrammarCache: compiled grammars by their text, within a number of bytes."""

from collections import OrderedDict

import llguidance

# Of a compiled grammar: 370 KB on average over the schemas of JSONSchemaBench, with a vocabulary of 152,000 tokens.
_BASE_BYTES = 300_000
_BYTES_PER_CHARACTER = 40


class GrammarCache:
    """The least recently used goes first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._matchers: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self.num_bytes = 0

    def get(self, text: str) -> llguidance.LLMatcher | None:
        if text not in self._matchers:
            return None
        self._matchers.move_to_end(text)
        return self._matchers[text]

    def put(self, text: str, matcher: llguidance.LLMatcher) -> None:
        """Evicts others to make room; what is larger than the whole cache is not stored."""
        size = _size(text)
        if size > self._max_bytes or text in self._matchers:
            return
        while self.num_bytes + size > self._max_bytes:
            evicted, _ = self._matchers.popitem(last=False)
            self.num_bytes -= _size(evicted)
        self._matchers[text] = matcher
        self.num_bytes += size


def _size(text: str) -> int:
    return _BASE_BYTES + _BYTES_PER_CHARACTER * len(text)
