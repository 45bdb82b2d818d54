"""pattern_of_lark: converts a Lark grammar without recursion to a regular expression, for use in a JSON schema."""

import ast
import re
from dataclasses import dataclass, field

from engine.errors import InvalidRequest
from server.structured_outputs.languages.patterns import MAX_CHECKED, checked_construct, escaped

_MAX_NESTED = 50  # brackets and rules within each other

_DEFINITION = re.compile(r"[?!]*(?P<name>_?[A-Za-z]\w*)(?:\.-?\d+)?\s*:(?!:)")
_IMPORT = re.compile(r"%import\s+common\.(?P<name>\w+)(?:\s*->\s*(?P<alias>\w+))?")
_IMPORTS = re.compile(r"%import\s+common\s*\((?P<names>[\w\s,]+)\)")
_TOKEN = re.compile(
    r"\s+|//.*"
    r'|(?P<string>"(?:\\.|[^"\\])*")(?!i)'
    r"|(?P<regex>/(?!/)(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\[])+/)(?![imslux])"
    r"|->\s*\w+"
    r"|(?P<name>_?[A-Za-z]\w*)"
    r"|~\s*(?P<least>\d+)(?:\s*\.\.\s*(?P<most>\d+))?"
    r"|(?P<sign>\.\.|[()\[\]|?*+])"
)

# The terminals of Lark that grammars of texts import
_COMMON = {
    "LF": r"\n",
    "CR": r"\r",
    "NEWLINE": r"(?:\r?\n)+",
    "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+",
    "DIGIT": "[0-9]",
    "INT": "[0-9]+",
    "LETTER": "[A-Za-z]",
    "WORD": "[A-Za-z]+",
    "CNAME": "[A-Za-z_][A-Za-z0-9_]*",
}


class _NoPattern(Exception):
    """The grammar cannot be converted to a regular expression."""


def pattern_of_lark(grammar: str) -> str | None:
    """Return a regular expression for the texts that `start` matches; None for grammars with recursion, %ignore or
    other unsupported syntax.

    Rules and terminals are treated alike: texts are matched by characters and not split into tokens first.
    """
    try:
        pattern = _Grammar.read(grammar).expand("start", 0)
        is_readable = len(pattern) <= MAX_CHECKED and checked_construct(f"^(?:{pattern})$", "grammar") is None
    except (_NoPattern, InvalidRequest):
        return None
    return pattern if is_readable else None


@dataclass(slots=True)
class _Grammar:
    """A parsed grammar. bodies: definitions, by name. patterns: converted definitions, None during conversion."""

    bodies: dict[str, str] = field(default_factory=dict)
    patterns: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> "_Grammar":
        grammar = cls()
        last = ""
        for line in map(str.strip, text.splitlines()):
            if not line or line.startswith("//"):
                continue
            if line.startswith("%"):
                grammar._import(line)
            elif (definition := _DEFINITION.match(line)) is not None:
                last = definition["name"]
                grammar.bodies[last] = line[definition.end() :]
            elif last:
                grammar.bodies[last] += "\n" + line
            else:
                raise _NoPattern
        return grammar

    def _import(self, line: str) -> None:
        if (one := _IMPORT.fullmatch(line)) is not None:
            names = {one["alias"] or one["name"]: one["name"]}
        elif (several := _IMPORTS.fullmatch(line)) is not None:
            names = {name: name for name in several["names"].replace(",", " ").split()}
        else:
            raise _NoPattern
        for alias, name in names.items():
            if name not in _COMMON:
                raise _NoPattern
            self.patterns[alias] = _COMMON[name]

    def expand(self, name: str, depth: int) -> str:
        if name not in self.patterns:
            if name not in self.bodies or depth > _MAX_NESTED:
                raise _NoPattern
            self.patterns[name] = None
            self.patterns[name] = _Body(self, self.bodies[name], depth + 1).read()
        pattern = self.patterns[name]
        if pattern is None or len(pattern) > MAX_CHECKED:
            raise _NoPattern  # recursive, or too long
        return pattern


class _Body:
    """A parser that converts one definition's body to a regular expression."""

    def __init__(self, grammar: _Grammar, text: str, depth: int) -> None:
        self._grammar = grammar
        self._depth = depth
        self._tokens = _tokens(text)
        self._position = 0

    def read(self) -> str:
        pattern = self._alternatives(0)
        if self._position < len(self._tokens):
            raise _NoPattern
        return pattern

    def _alternatives(self, nested: int) -> str:
        """Convert alternatives up to their closing bracket, which is not consumed."""
        if nested > _MAX_NESTED:
            raise _NoPattern
        alternatives = [""]
        size = 0
        while (token := self._peek()) is not None and token.group() not in (")", "]"):
            if token.group() == "|":
                self._position += 1
                alternatives.append("")
                continue
            item = self._item(nested)
            alternatives[-1] += item
            size += len(item)
            if size > MAX_CHECKED:
                raise _NoPattern
        return f"(?:{'|'.join(alternatives)})"

    def _item(self, nested: int) -> str:
        atom = self._atom(nested)
        while (token := self._peek()) is not None:
            if token.group() in ("?", "*", "+"):
                atom = f"(?:{atom}){token.group()}"
            elif token["least"] is not None:
                atom = f"(?:{atom}){{{token['least']},{token['most'] or token['least']}}}"
            else:
                break
            self._position += 1
        return atom

    def _atom(self, nested: int) -> str:
        token = self._tokens[self._position]
        self._position += 1
        if token["string"] is not None:
            return self._text(_literal(token["string"]))
        if token["regex"] is not None:
            return f"(?:{token['regex'][1:-1]})"
        if token["name"] is not None:
            return self._grammar.expand(token["name"], self._depth)
        if token.group() not in ("(", "["):
            raise _NoPattern
        inside = self._alternatives(nested + 1)
        closing = self._peek()
        if closing is None or closing.group() != {"(": ")", "[": "]"}[token.group()]:
            raise _NoPattern
        self._position += 1
        return inside if token.group() == "(" else f"{inside}?"

    def _text(self, text: str) -> str:
        following = self._peek()
        if following is None or following.group() != "..":
            return "".join(map(escaped, text))
        last = self._tokens[self._position + 1] if self._position + 1 < len(self._tokens) else None
        if last is None or last["string"] is None:
            raise _NoPattern
        self._position += 2
        end = _literal(last["string"])
        if len(text) != 1 or len(end) != 1 or text > end:
            raise _NoPattern
        return f"[{escaped(text)}-{escaped(end)}]"

    def _peek(self) -> re.Match[str] | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None


def _tokens(text: str) -> list[re.Match[str]]:
    """Split a definition's body into tokens, without blanks, comments and aliases."""
    tokens, position = [], 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise _NoPattern
        position = token.end()
        if token.lastgroup is not None:
            tokens.append(token)
    return tokens


def _literal(written: str) -> str:
    try:
        return str(ast.literal_eval(written))
    except (SyntaxError, ValueError):
        raise _NoPattern from None
