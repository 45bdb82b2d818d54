"""find_layout: infers the layout of tool calls from the text that a chat template writes around known calls."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from server.tools.detection.renderings import (
    ARGUMENTS,
    CALLS,
    KEYS,
    TEXT,
    VALUES,
    ProbeCall,
    Renderings,
    common_end,
    common_start,
)
from server.tools.layout import CallField, CallLayout
from server.tools.styles.tagged_layout import TaggedLayout

_THOUGHT_END = re.compile(r".*(?:</\S*think>|<\|END_THINKING\|>|\[/THINK\])\s*", re.DOTALL)
# Ends of a turn that some templates use only after calls. They end the generation and are not part of the answer.
_TURN_ENDS = ("<|eom_id|>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<|call|>", "</s>")
_EOS_MARK = re.compile(r"<[|｜][^<>\s]*eos[^<>\s]*>$")  # such as Hy3's <｜hy_eos:opensource｜>


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    stop: int
    field: CallField


@dataclass(frozen=True, slots=True)
class _Tags:
    """The texts around the keys and values of arguments that are not written as JSON."""

    open_key: str
    open_string: str
    open_value: str
    close_value: str


def find_layout(renderings: Renderings, *, takes_object: bool) -> CallLayout | TaggedLayout | None:
    """Return the layout of the template's calls; None if it renders no calls, or no layout describes them."""
    one = renderings.answer(1, takes_object=takes_object)
    tags = None if one is None else _find_tags(one, CALLS[0])
    spans = None if one is None else _find_spans(one, CALLS[0], tags, 0)
    if one is None or spans is None:
        return None
    opening, lead, after_text = _find_opening(renderings, one[: spans[0].start], takes_object=takes_object)
    if not opening:
        return None
    closing = _without_turn_end(one[spans[-1].stop :], renderings)
    parts = _parts(one, spans)
    layout: _Layout = "", opening, (*parts, closing), "", ""
    two = renderings.answer(2, takes_object=takes_object)
    if two is not None and (second := _find_spans(two, CALLS[1], tags, two.find(CALLS[0].name) + 1)) is not None:
        first = _find_spans(two, CALLS[0], tags, 0)
        if first is None or (found := _for_several(opening, parts, closing, two, first, second)) is None:
            return None
        layout = found
    begin, opened, body, separator, end = layout
    takes_several = two is not None and CALLS[1].name in two
    call = CallLayout(begin, opened, body, separator, end, lead, after_text, takes_several)
    if tags is None:
        return call
    open_string = None if tags.open_string == tags.open_value else tags.open_string
    return TaggedLayout(call, tags.open_key, tags.open_value, tags.close_value, open_string)


_Layout = tuple[str, str, tuple[str | CallField, ...], str, str]  # begin, open, body, separator, end


def _for_several(
    opening: str,
    parts: Sequence[str | CallField],
    closing: str,
    two: str,
    first: Sequence[_Span],
    second: Sequence[_Span],
) -> _Layout | None:
    """Return the layout of several calls: the text between two of them shows what is written once per call."""
    between = two[first[-1].stop : second[0].start]
    body = _with_index(parts, _parts(two, second))
    opened = common_end(opening, between)
    opening, between = opening[: len(opening) - len(opened)], between[: len(between) - len(opened)]
    if opening.endswith("0") and between.endswith("1"):
        # A number that counts the calls
        body = None if body is None else (CallField.INDEX, opened, *body)
        opening, between = opening[:-1], between[:-1]
        opened = common_end(opening, between)
        opening, between = opening[: len(opening) - len(opened)], between[: len(between) - len(opened)]
    close = common_start(closing, between)
    if body is None:
        return None
    return opening, opened, (*body, close), between[len(close) :], closing[len(close) :]


def _with_index(
    first: Sequence[str | CallField], second: Sequence[str | CallField]
) -> tuple[str | CallField, ...] | None:
    """Merge the parts of two calls, with INDEX where one has 0 and the other 1; None for other differences."""
    parts: list[str | CallField] = []
    for one, other in zip(first, second, strict=True):
        if isinstance(one, str) and isinstance(other, str) and one != other:
            start = common_start(one, other)
            end = common_end(one, other)
            if one != f"{start}0{end}" or other != f"{start}1{end}":
                return None
            parts += [start, CallField.INDEX, end]
        elif one != other:
            return None
        else:
            parts.append(one)
    return tuple(parts)


def _find_spans(text: str, call: ProbeCall, tags: _Tags | None, start: int) -> list[_Span] | None:
    """Return the spans of the call's name, id and arguments, in order; None without a name or arguments."""
    name = text.find(call.name, start)
    if name < 0:
        return None
    spans = [_Span(name, name + len(call.name), CallField.NAME)]
    if tags is None:
        # The arguments may come before the name.
        arguments = [*ARGUMENTS.finditer(text)][CALLS.index(call) :]
        if not arguments:
            return None
        spans.append(_Span(*arguments[0].span(), CallField.ARGUMENTS))
    else:
        key = text.find(KEYS[0], name)
        value = text.find(str(VALUES[1]), key)
        if key < 0 or value < 0:
            return None
        stop = value + len(str(VALUES[1])) + len(tags.close_value)
        spans.append(_Span(key - len(tags.open_key), stop, CallField.ARGUMENTS))
    if (call_id := text.find(call.id)) >= 0:
        spans.append(_Span(call_id, call_id + len(call.id), CallField.ID))
    return sorted(spans, key=lambda span: span.start)


def _find_tags(text: str, call: ProbeCall) -> _Tags | None:
    """Return the tags around the call's keys and values; None if its arguments are JSON or have no such tags."""
    name = text.find(call.name)
    if name < 0 or ARGUMENTS.search(text):
        return None
    gaps: list[str] = []
    end = name + len(call.name)
    for piece in (KEYS[0], str(VALUES[0]), KEYS[1], str(VALUES[1])):
        start = text.find(piece, end)
        if start < 0:
            return None
        gaps.append(text[end:start])
        end = start + len(piece)
    before_first, open_string, between, open_value = gaps
    open_key = common_end(before_first, between)
    close_value = between[: len(between) - len(open_key)]
    if not open_key.strip() or not close_value.strip() or not text.startswith(close_value, end):
        return None
    return _Tags(open_key, open_string, open_value, close_value)


def _parts(text: str, spans: Sequence[_Span]) -> list[str | CallField]:
    """Split a call into its fields and the literal text between them."""
    parts: list[str | CallField] = [spans[0].field]
    for before, after in itertools.pairwise(spans):
        parts += [text[before.stop : after.start], after.field]
    return parts


def _find_opening(renderings: Renderings, before: str, *, takes_object: bool) -> tuple[str, str, str | None]:
    """Return the text that opens the calls, and CallLayout's `lead` and `after_text`: the white space before it in an
    answer without and with text. after_text is None if the template drops the text."""
    with_text = renderings.answer(1, content=TEXT, takes_object=takes_object) or ""
    _, has_text, after = with_text.partition(TEXT)
    spans = _find_spans(after, CALLS[0], None, 0) or _find_spans(after, CALLS[0], _find_tags(after, CALLS[0]), 0)
    if not has_text or spans is None:
        without_thought = _THOUGHT_END.sub("", before)
        opening = without_thought.lstrip()
        return opening, _space_only(without_thought[: len(without_thought) - len(opening)]), None
    after = after[: spans[0].start]
    opening = common_end(before, after).lstrip()
    after_text = after[: len(after) - len(opening)]
    lead = before[: len(before) - len(opening)]
    # The space after a thought belongs to the thought.
    return opening, _space_only(lead), after_text if after_text == _space_only(after_text) else None


def _space_only(text: str) -> str:
    return text if text.isspace() else ""


def _without_turn_end(closing: str, renderings: Renderings) -> str:
    """Return the text after a call without its end-of-turn text, which follows every answer."""
    plain = renderings.answer(0, content=TEXT, takes_object=True) or ""
    end = common_end(closing, plain.partition(TEXT)[2])
    closing = closing[: len(closing) - len(end)]
    for turn_end in _TURN_ENDS:
        closing = closing.removesuffix(turn_end)
    return _EOS_MARK.sub("", closing)
