"""ModulePattern: a configuration's regular expression over module names, matched in polynomial time.

Python's `re` takes hours for patterns that are made to backtrack, and configurations come from strangers. This matcher
finds and caches where each part of a pattern can end if it begins at position i of the name: at most (parts of the
pattern) * (characters of the name) results.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.errors import CheckpointError, UnsupportedModelError

_MAX_LENGTH = 1000
_MAX_COUNT = 1000
_MAX_DEPTH = 20  # of nested groups
# A single character: an escape, a class, a dot, or itself.
_CHARACTER = re.compile(r"\\[^0-9AbBZ]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^()|*+?{}\[\]\\^$]")
_QUANTIFIER = re.compile(r"(?P<sign>[*+?])|\{(?P<minimum>\d+)(?P<comma>,)?(?P<maximum>\d+)?\}")
_SUFFIX = re.compile(r"[?+]")
_GROUP = re.compile(r"\((?:\?(?P<kind>:|=|!|<=|<!|P<\w+>))?")


@dataclass(frozen=True, slots=True, eq=False)
class _Character:
    pattern: re.Pattern[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Anchor:
    is_end: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Alternation:
    branches: Sequence[Sequence["_Part"]]
    is_lookaround: bool = False  # matches no characters
    is_lookbehind: bool = False
    is_negative: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Repeat:
    part: "_Part"
    minimum: int
    maximum: int | None


_Part = _Character | _Anchor | _Alternation | _Repeat


class ModulePattern:
    """A regular expression over the names of modules."""

    def __init__(self, pattern: str, source: str) -> None:
        """Parse the pattern. Errors name `source`.

        Raises CheckpointError for text that is not a regular expression, UnsupportedModelError for features that this
        matcher does not support.
        """
        quoted = repr(pattern if len(pattern) <= 100 else pattern[:100] + "...")
        remedy = "fetch the checkpoint's own configuration again"
        if len(pattern) > _MAX_LENGTH:
            raise CheckpointError(f"{source}: target {quoted} is longer than {_MAX_LENGTH} characters; {remedy}")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError):
            raise CheckpointError(f"{source}: target {quoted} is not a regular expression; {remedy}") from None
        try:
            self._root = _Parser(pattern).parse()
        except _UnsupportedPatternError:
            raise UnsupportedModelError(
                f"{source}: target {quoted} uses features of regular expressions that headrace does not support (back "
                f"references, flags, counts above {_MAX_COUNT}, groups nested more than {_MAX_DEPTH} deep); use a "
                "version of the model without these in its targets"
            ) from None

    def is_match(self, name: str) -> bool:
        """Whether the pattern matches at the start of the name, like re.match."""
        return any(True for _ in _Matcher(name).ends(self._root, 0))


class _Matcher:
    """Cached matches of a pattern's parts against one name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._cache: dict[tuple[_Part, int], frozenset[int]] = {}

    def ends(self, part: _Part, start: int) -> frozenset[int]:
        """Return the positions where `part` can end if it begins at `start`."""
        ends = self._cache.get((part, start))
        if ends is None:
            ends = self._cache[part, start] = frozenset(self._find(part, start))
        return ends

    def _find(self, part: _Part, start: int) -> Iterator[int] | set[int]:
        match part:
            case _Character(pattern):
                return {start + 1} if pattern.match(self._name, start) else set()
            case _Anchor(is_end):
                return {start} if start == (len(self._name) if is_end else 0) else set()
            case _Alternation(branches, is_lookaround):
                if is_lookaround:
                    return {start} if self._is_satisfied(part, start) is not part.is_negative else set()
                return set().union(*(self._sequence(branch, {start}) for branch in branches))
            case _Repeat():
                return self._repeated(part, start)

    def _is_satisfied(self, look: _Alternation, at: int) -> bool:
        if look.is_lookbehind:
            return any(at in self._sequence(branch, {start}) for branch in look.branches for start in range(at + 1))
        return any(self._sequence(branch, {at}) for branch in look.branches)

    def _sequence(self, parts: Sequence[_Part], starts: set[int]) -> set[int]:
        for part in parts:
            starts = {end for start in starts for end in self.ends(part, start)}
        return starts

    def _repeated(self, repeat: _Repeat, start: int) -> set[int]:
        ends = {start}
        for _ in range(repeat.minimum):
            ends = self._sequence([repeat.part], ends)
        new, maximum = ends, repeat.maximum
        for _ in range(len(self._name) if maximum is None else maximum - repeat.minimum):
            new = self._sequence([repeat.part], new) - ends
            if not new:
                break
            ends = ends | new
        return ends


class _UnsupportedPatternError(Exception):
    """The pattern uses a feature that this matcher does not support."""


class _Parser:
    """A cursor over a pattern that `re` accepts."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> _Alternation:
        root = _Alternation(self._branches())
        if self._at < len(self._pattern):
            raise _UnsupportedPatternError
        return root

    def _branches(self) -> list[list[_Part]]:
        branches: list[list[_Part]] = [[]]
        while self._at < len(self._pattern) and self._pattern[self._at] != ")":
            if self._pattern[self._at] == "|":
                self._at += 1
                branches.append([])
            else:
                branches[-1].append(self._quantified(self._part()))
        return branches

    def _part(self) -> _Part:
        sign = self._pattern[self._at]
        if sign in "^$":
            self._at += 1
            return _Anchor(sign == "$")
        if sign == "(":
            return self._group()
        character = self._take(_CHARACTER)
        if character is None:
            raise _UnsupportedPatternError
        return _Character(re.compile(character[0]))

    def _group(self) -> _Alternation:
        opening = self._take(_GROUP)
        assert opening is not None
        self._depth += 1
        if self._pattern.startswith("?", self._at) or self._depth > _MAX_DEPTH:  # flags, comments, conditions
            raise _UnsupportedPatternError
        kind = opening["kind"] or ":"
        branches = self._branches()
        self._at += 1  # the closing parenthesis
        self._depth -= 1
        return _Alternation(branches, kind in ("=", "!", "<=", "<!"), kind in ("<=", "<!"), kind in ("!", "<!"))

    def _quantified(self, part: _Part) -> _Part:
        quantifier = self._take(_QUANTIFIER)
        if quantifier is None:
            return part
        suffix = self._take(_SUFFIX)
        if suffix is not None and suffix[0] == "+":  # possessive; lazy ("?") matches the same names as greedy
            raise _UnsupportedPatternError
        if sign := quantifier["sign"]:
            return _Repeat(part, int(sign == "+"), 1 if sign == "?" else None)
        minimum = int(quantifier["minimum"])
        maximum = int(quantifier["maximum"]) if quantifier["maximum"] else None if quantifier["comma"] else minimum
        if max(minimum, maximum or 0) > _MAX_COUNT:
            raise _UnsupportedPatternError
        return _Repeat(part, minimum, maximum)

    def _take(self, token: re.Pattern[str]) -> re.Match[str] | None:
        match = token.match(self._pattern, self._at)
        if match is not None:
            self._at = match.end()
        return match
