"""ReplayResult: outcome of a replay, and its text for people."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from engine.wording import counted
from server.commands.replay.comparing import Difference, DifferingPart

_DETERMINISTIC = "deterministic/"


class ReplayResult(msgspec.Struct, kw_only=True):
    """Outcome of a replay, as --json prints it."""

    is_same: bool
    num_tokens: int | None
    has_logprobs: bool
    differences: list[Difference]
    stored_fingerprint: str | None
    computed_fingerprint: str | None
    differing_parts: list[DifferingPart]


def result_text(result: ReplayResult) -> str:
    """Return the result as lines."""
    return "\n".join(_lines(result))


def _lines(result: ReplayResult) -> Iterator[str]:
    if result.is_same:
        tokens = "" if result.num_tokens is None else f": {counted(result.num_tokens, 'token')}"
        yield f"same{tokens}{', with their log probabilities' if result.has_logprobs else ''}"
    else:
        yield "different"
    for each in result.differences:
        yield from _difference_lines(each)
    yield from _fingerprint_lines(result)


def _difference_lines(difference: Difference) -> Iterator[str]:
    place = "" if difference.position is None else f" {difference.position} (from 0)"
    if place and difference.what != "token":
        place = f", token{place}"
    yield f"  {difference.part}, {difference.what}{place}:"
    if difference.is_guess:
        hint = "" if difference.has_tokens else "; answers with logprobs or return_token_ids have their own"
        yield f"    counted in tokens of the texts{hint}"
    if difference.before is not None:
        yield f"    after     {_shown(difference.before)}"
    yield f"    stored    {_shown(difference.stored)}"
    yield f"    computed  {_shown(difference.computed)}"


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _fingerprint_lines(result: ReplayResult) -> Iterator[str]:
    stored, computed = result.stored_fingerprint, result.computed_fingerprint
    for part in result.differing_parts:
        yield f"  system_fingerprint: {part.name} was {part.stored} and is {part.computed}"
    if stored is None or computed is None:
        which = "stored answer" if stored is None else "server"
        own = "" if computed is None else f" (the server's is {computed})"
        yield f"  the {which} has no system_fingerprint{own}, so another model, version or machine would not be noticed"
    elif not result.differing_parts and not result.is_same:
        yield (
            f"  system_fingerprint is the same, {computed}: adapters, the chat template and the defaults of sampling "
            "are not in it"
        )
    if computed is not None and not computed.startswith(_DETERMINISTIC):
        yield (
            "  the server runs without --deterministic: with AMX, in float32, with recurrent layers and on GPUs, the "
            "last bits of log probabilities, and so now and then a token, depend on what is computed beside a request"
        )
