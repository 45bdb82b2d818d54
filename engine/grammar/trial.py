"""`python -m engine.grammar.trial`: compiles grammars on trial, in a process that can be killed.

A grammar comes from a client, and compiling one can take minutes, all memory, or the whole process down with it. So
each is compiled here first, and in the engine only when that went well. Requests and replies are frames on stdin and
stdout: four bytes of length, then the payload. The first request is a TokenizerSource in msgpack, with an empty reply
when it is read; every other one is a grammar's text, with a Trial in reply.
"""

import re
import resource
import signal
import struct
import sys
import time
from typing import IO

import llguidance
import msgspec

from engine.client.lifetime import end_with_parent
from engine.grammar.vocabulary import GrammarVocabulary, TokenizerSource

MAX_BYTES = 1 << 30  # of memory, beside what the vocabulary takes

_LENGTH = struct.Struct("<I")
_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")  # in the grammar that the server wrote
_NO_WAY_BACK = "it has max_tokens=... or stop=..., which cannot be followed; use suffix=..., or a limit in the pattern"


class Trial(msgspec.Struct, frozen=True):
    """How compiling went. error: for the client; empty if it went well."""

    error: str
    compile_s: float
    mask_s: float = 0.0  # the longer of the first two masks


def write_frame(stream: IO[bytes], payload: bytes) -> None:
    stream.write(_LENGTH.pack(len(payload)) + payload)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next payload; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the engine process, which starts this one, ignores it
    end_with_parent()
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    source = read_frame(requests)
    if source is None:
        return
    vocabulary = GrammarVocabulary.of(msgspec.msgpack.decode(source, type=TokenizerSource))
    _limit_memory()
    write_frame(replies, b"")
    while (grammar := read_frame(requests)) is not None:
        write_frame(replies, msgspec.msgpack.encode(_try(vocabulary, grammar.decode())))


def _try(vocabulary: GrammarVocabulary, grammar: str) -> Trial:
    start_s = time.perf_counter()
    matcher = vocabulary.matcher(grammar)
    compile_s = time.perf_counter() - start_s
    if matcher.is_error():
        return Trial(_plain(matcher.get_error()), compile_s)
    mask_s = 0.0
    for _ in range(2):  # the first one makes states that the second one finds
        start_s = time.perf_counter()
        matcher.compute_bitmask()
        mask_s = time.perf_counter() - start_s
        if matcher.is_error():
            return Trial(_plain(matcher.get_error()), compile_s, mask_s)
    return Trial("" if _can_go_back(matcher, vocabulary) else _NO_WAY_BACK, compile_s, mask_s)


def _plain(error: str) -> str:
    """The library's message for a client: without the grammar that we made, and without its insides."""
    line = error.partition("\n")[0].replace("<non-verbose/>", "").strip()
    if line.startswith("panic"):
        return "the grammar library failed on it; write it another way"
    if line == "NoExtensionBias":
        return "no text matches it"
    return _PLACE.sub("", line) or "it could not be compiled"


def _can_go_back(matcher: llguidance.LLMatcher, vocabulary: GrammarVocabulary) -> bool:
    """Whether what a draft's tokens did can be undone; the library cannot where a grammar counts tokens."""
    mask = matcher.compute_bitmask()
    first = next(
        (i for i in range(len(mask) * 8) if mask[i // 8] >> i % 8 & 1 and i not in vocabulary.eos_token_ids), None
    )
    return first is None or not matcher.consume_token(first) or matcher.rollback(1)


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))


if __name__ == "__main__":
    main()
