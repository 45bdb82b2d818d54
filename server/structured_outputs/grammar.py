"""GrammarBuilder: builds the grammar of a whole answer from parts."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_ANY_TEXT = "TEXT: /(.|\\n)*/"


class GrammarBuilder:
    """Builds a grammar in llguidance's Lark syntax. Methods return expressions for use in `rule` and `build`.

    A literal that spells a special token matches only that token, not the same characters in ordinary tokens.
    """

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        """special_ids: the token ids, by text, that the engine's grammars treat as special: the tokenizer's special
        tokens, and all added tokens with a text like <this>."""
        self._special_ids = special_ids
        longest_first = sorted(special_ids, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if special_ids else None
        self._rules: list[str] = []
        self._others: list[dict[str, str]] = []

    def literal(self, text: str) -> str:
        """Return an expression for exactly `text`, which may be empty."""
        return " ".join(map(self._token_or_string, self._pieces(text))) or '""'

    def json(self, schema: Mapping[str, Any] | bool) -> str:
        """Return an expression for the JSON values that a schema from `prepare_schema` allows."""
        return self.rule(f"%json {json.dumps(schema)}")

    def regex(self, pattern: str) -> str:
        """Return an expression for the texts that the regular expression matches from beginning to end."""
        return self.rule("/" + re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern).replace("\n", "\\n") + "/")

    def lark(self, grammar: str) -> str:
        """Return an expression for the texts that another Lark grammar, with its own `start`, matches."""
        name = f"g{len(self._others)}"
        self._others.append({"name": name, "lark_grammar": grammar})
        return f"@{name}"

    def text(self) -> str:
        """Return an expression for any text without special tokens, which may be empty."""
        return "TEXT"

    def text_until(self, mark: str) -> str:
        """Return an expression for any text up to and including the first `mark`."""
        first, *rest = self._pieces(mark)
        if first in self._special_ids:
            return f"TEXT {self.literal(mark)}"
        # Lazy: the rule ends at its first match. Pieces after a special token are appended unchanged.
        lazy = self._add("[lazy]", f"TEXT {self._token_or_string(first)}")
        return " ".join([lazy, *map(self._token_or_string, rest)])

    def rule(self, *alternatives: str) -> str:
        """Return an expression for any one of the alternatives. It can be repeated: `rule(...) + "*"`."""
        return self._add("", " | ".join(alternatives))

    def build(self, start: str) -> str:
        """Return the grammar, for EngineRequest.grammar. start: the expression that the whole answer matches."""
        lark = "\n".join([f"start: {start}", *self._rules, _ANY_TEXT])
        return json.dumps({"grammars": [{"lark_grammar": lark}, *self._others]})

    def _add(self, options: str, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def _pieces(self, text: str) -> list[str]:
        """Split `text` into special tokens and the texts between them."""
        return [piece for piece in (self._special.split(text) if self._special else [text]) if piece]

    def _token_or_string(self, piece: str) -> str:
        if piece in self._special_ids:
            return f"<[{self._special_ids[piece]}]>"
        return json.dumps(piece)


def one_of(builder: GrammarBuilder, texts: Iterable[str]) -> str:
    """Return an expression for exactly one of the texts."""
    return builder.rule(*map(builder.literal, texts))
