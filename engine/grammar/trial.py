"""try_grammar: compiles a grammar on trial, and reports the outcome.

Grammars come from clients, and compiling one can take minutes, exhaust memory or crash the process. So a grammar is
compiled in a killable process first, and in the engine only after that succeeded.
"""

import re
import time

import llguidance
import msgspec

from engine.grammar.vocabulary import GrammarVocabulary, is_beyond_limits

_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")  # a place in the grammar that the server wrote
_UNSATISFIABLE = re.compile(r"(?:failed to compile JSON schema: )?Unsatisfiable schema: (.*)")
_NO_PROPERTY = re.compile(r"required property '(.*)' is unsatisfiable")
_NO_WAY_BACK = "it has max_tokens=... or stop=..., which cannot be followed; use suffix=..., or a limit in the pattern"


class Trial(msgspec.Struct, frozen=True):
    """The outcome of compiling a grammar on trial. error: the message for the client; empty on success."""

    error: str
    compile_s: float
    mask_s: float = 0.0  # of the second mask


def try_grammar(vocabulary: GrammarVocabulary, grammar: str) -> Trial:
    start_s = time.perf_counter()
    matcher = vocabulary.matcher(grammar)
    compile_s = time.perf_counter() - start_s
    if matcher.is_error():
        return Trial(_plain(matcher.get_error()), compile_s)
    mask_s = 0.0
    for _ in range(2):  # the first mask makes states that the second one finds, as later masks do
        start_s = time.perf_counter()
        matcher.compute_bitmask()
        mask_s = time.perf_counter() - start_s
        if matcher.is_error():
            return Trial(_plain(matcher.get_error()), compile_s, mask_s)
    return Trial(_fault_of_first_token(matcher, vocabulary), compile_s, mask_s)


def _plain(error: str) -> str:
    """Return llguidance's error as a message for the client, without library internals or the server's grammar text."""
    line = error.partition("\n")[0].replace("<non-verbose/>", "").strip()
    if line.startswith("panic"):
        return "the grammar library failed on it; write it another way"
    if line == "NoExtensionBias":
        return "no text matches it"
    if is_beyond_limits(line):
        return "following it takes too much work; make it smaller"
    line = _PLACE.sub("", line)
    if (found := _UNSATISFIABLE.fullmatch(line)) is not None:
        return f"no value matches it: {_plain_contradiction(found[1])}; change what contradicts"
    return line or "it could not be compiled"


def _plain_contradiction(reason: str) -> str:
    """Return llguidance's "unsatisfiable schema" reason in plain words."""
    if reason.startswith("Regex is empty"):
        return "no text has the pattern, format, length and constants that are asked for together"
    if reason == "incompatible types":
        return "types that are asked for together exclude each other"
    if (found := _NO_PROPERTY.fullmatch(reason)) is not None:
        return f"the required property {found[1]} can have no value"
    return reason


def _fault_of_first_token(matcher: llguidance.LLMatcher, vocabulary: GrammarVocabulary) -> str:
    """Return an error if the matcher cannot consume a first token and roll it back, as drafts require; else ""."""
    mask = matcher.compute_bitmask()
    first = next(
        (i for i in range(len(mask) * 8) if mask[i // 8] >> i % 8 & 1 and i not in vocabulary.eos_token_ids), None
    )
    if first is None:
        return ""
    if not matcher.consume_token(first):
        return _plain(matcher.get_error())
    return "" if matcher.rollback(1) else _NO_WAY_BACK
