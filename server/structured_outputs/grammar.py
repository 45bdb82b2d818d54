"""GrammarBuilder: puts one grammar for the whole of an answer together from parts."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_ANY_TEXT = "TEXT: /(.|\\n)*/"


class GrammarBuilder:
    """Writes Lark as llguidance reads it. Each method returns an expression, to be used in `rule` or `build`.

    A text that spells a special token stands for that token, which no text of the model's can match.
    """

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        """special_ids: the tokens that the engine's grammars take for special, by their texts: the tokenizer's special
        ones, and all that were added to it with a text like <this>."""
        self._special_ids = special_ids
        longest_first = sorted(special_ids, key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if special_ids else None
        self._rules: list[str] = []
        self._others: list[dict[str, str]] = []

    def literal(self, text: str) -> str:
        """Exactly `text`, which may be empty."""
        return " ".join(map(self._token_or_string, self._pieces(text))) or '""'

    def json(self, schema: Mapping[str, Any] | bool) -> str:
        """A JSON value that the schema allows, as `prepare_schema` returns it."""
        return self.rule(f"%json {json.dumps(schema)}")

    def regex(self, pattern: str) -> str:
        """A text that the regular expression matches as a whole."""
        return self.rule("/" + re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern).replace("\n", "\\n") + "/")

    def lark(self, grammar: str) -> str:
        """What a whole grammar of its own (with its `start`) matches."""
        name = f"g{len(self._others)}"
        self._others.append({"name": name, "lark_grammar": grammar})
        return f"@{name}"

    def text(self) -> str:
        """Any text, with no special token in it; it may be empty."""
        return "TEXT"

    def text_until(self, mark: str) -> str:
        """Any text up to and including the first `mark`."""
        first, *rest = self._pieces(mark)
        if first in self._special_ids:
            return f"TEXT {self.literal(mark)}"
        # Lazy: it ends where it first matches. The pieces behind a special token follow as they are.
        lazy = self._add("[lazy]", f"TEXT {self._token_or_string(first)}")
        return " ".join([lazy, *map(self._token_or_string, rest)])

    def rule(self, *alternatives: str) -> str:
        """One of the alternatives, in an expression that may be repeated: `rule(...) + "*"`."""
        return self._add("", " | ".join(alternatives))

    def build(self, start: str) -> str:
        """The grammar, for EngineRequest.grammar. start: the expression that the whole answer matches."""
        lark = "\n".join([f"start: {start}", *self._rules, _ANY_TEXT])
        return json.dumps({"grammars": [{"lark_grammar": lark}, *self._others]})

    def _add(self, options: str, body: str) -> str:
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def _pieces(self, text: str) -> list[str]:
        """`text` cut where a special token begins and ends."""
        return [piece for piece in (self._special.split(text) if self._special else [text]) if piece]

    def _token_or_string(self, piece: str) -> str:
        if piece in self._special_ids:
            return f"<[{self._special_ids[piece]}]>"
        return json.dumps(piece)


def one_of(builder: GrammarBuilder, texts: Iterable[str]) -> str:
    """Exactly one of the texts."""
    return builder.rule(*map(builder.literal, texts))
