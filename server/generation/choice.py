"""Choice: turns the outputs of one engine request into deltas of text."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from engine.errors import EngineUnavailable, InvalidRequest, RequestFailed
from engine.protocol import FinishReason, RequestOutput, TokenLogprobs
from server.generation.accounting.metering import ChoiceMeter
from server.generation.choice_reader import ChoicePiece, ChoiceReader, join_pieces
from server.generation.infill.line_limits import LineOptions
from server.text.detokenizer import Detokenizer
from server.text.stop_strings import ChoiceText, StopStringMatcher
from server.text.tokenizer import Tokenizer

TIMEOUT_STOP_REASON = "timeout"


@dataclass(frozen=True, slots=True)
class Prompt:
    ids: list[int]
    text: str  # for echo: the prompt as the client wrote it, or decoded from its ids


@dataclass(frozen=True, slots=True)
class TextOptions:
    """Options of a choice's text that the server applies after the engine."""

    stop: tuple[str, ...] = ()
    include_stop: bool = False  # keep the stop string, or the text of the stop token, at the end
    skip_special_tokens: bool = True
    min_tokens: int = 0  # stop strings are ignored before this many tokens
    echo: bool = False
    logprobs: bool = False
    echo_top: int = 0  # number of top tokens in the echoed prompt's log probabilities
    kept_ids: frozenset[int] = frozenset()  # special tokens that the parsers need to see
    lines: LineOptions = field(default_factory=LineOptions)  # not applied if the text is parsed for reasoning or calls


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its log probability. `logprob` and `top` are None for the first token of an echoed prompt."""

    token_id: int
    logprob: float | None
    top: list[tuple[int, float]] | None  # best first
    text_offset: int  # number of characters of the choice's text before the token


@dataclass(frozen=True, slots=True)
class Finish:
    reason: FinishReason  # STOP or LENGTH; other ends raise exceptions
    stop_reason: int | str | None  # the client's stop string or token id, or TIMEOUT_STOP_REASON
    is_timeout: bool = False  # the reason is LENGTH because the request's time limit was reached
    is_within_call: bool = False  # the last call's arguments are cut off


class ChoiceDelta(msgspec.Struct, gc=False):  # quicker to make than a dataclass, and there is one for each token
    """The increment that one engine output adds to a choice. Text that may be the start of a stop string is held back
    for a later delta."""

    index: int
    text: str = ""  # if the text is not parsed
    pieces: Sequence[ChoicePiece] = ()  # if the text is parsed for reasoning and calls
    token_ids: list[int] = []  # ids that count as output, EOS included
    may_be_call: bool = False  # some of its ids belong to a tool call, or may turn out to
    tokens: Sequence[ScoredToken] = ()  # if the request has logprobs
    prompt_logprobs: list[TokenLogprobs | None] | None = None  # once, if requested
    num_prompt_computed: int | None = None  # before the first token, if the request asks for progress
    finish: Finish | None = None  # in the last delta


class Choice:
    """The state of one choice while outputs arrive. Nothing may be pushed after the delta with a `finish`."""

    def __init__(
        self,
        index: int,
        prompt: Prompt,
        options: TextOptions,
        tokenizer: Tokenizer,
        meter: ChoiceMeter,
        *,
        eos_ids: frozenset[int],
        reader: ChoiceReader | None = None,
        grammar_param: str | None = None,
    ) -> None:
        """eos_ids: end tokens other than the client's stop_token_ids. grammar_param: field to name in the error if the
        engine refuses the grammar."""
        self.index = index
        self.num_tokens = 0
        self.num_cached_tokens = 0
        self.num_written_tokens = 0
        self.num_prompt_computed = len(prompt.ids)  # fewer while progress is reported
        self.queue_s = 0.0  # from the request's arrival to its first step
        self.num_drafted = 0
        self.num_draft_accepted = 0
        self.num_predicted = 0
        self.num_reasoning = 0
        self.total_logprob = 0.0  # of counted tokens, if the request has log probabilities
        self.meter = meter
        self._reader = reader
        self._grammar_param = grammar_param
        self.prompt = prompt
        self._options = options
        self._eos_ids = eos_ids
        skip = options.skip_special_tokens
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip, kept_ids=options.kept_ids)
        self._text = ChoiceText(
            self._detokenizer, StopStringMatcher(options.stop, include_in_output=options.include_stop)
        )
        self._is_free = not options.stop  # no string ends the text
        self._echo_due = options.echo
        self._lines = options.lines.limits()
        self._offsets: Detokenizer | None = None  # measures the text before each token, for logprobs
        self._offset = 0
        if options.logprobs:
            self._offsets = Detokenizer(tokenizer, skip_special_tokens=skip, continues=not options.echo)

    def push(self, output: RequestOutput) -> ChoiceDelta:
        """Return the delta for one engine output. Raises RequestFailed or EngineUnavailable if the engine ended the
        request, and InvalidRequest if it refused the grammar."""
        self.num_cached_tokens = output.num_cached_tokens
        if output.num_written_tokens:
            self.num_written_tokens = max(self.num_written_tokens, output.num_written_tokens)
        if output.num_drafted:  # a terminal output from outside has none
            self.num_drafted = max(self.num_drafted, output.num_drafted)
            self.num_draft_accepted = max(self.num_draft_accepted, output.num_draft_accepted)
        if output.queue_s is not None:
            self.queue_s = output.queue_s
        delta = ChoiceDelta(self.index)
        if output.num_prompt_computed is not None:
            delta.num_prompt_computed = self.num_prompt_computed = output.num_prompt_computed
            if not output.new_ids and output.finish_reason is None:
                self.meter.count(output, 0)
                return delta
        if self._echo_due:
            self._echo_due = False
            self._push_prompt(output, delta)
        if self._reader is None:
            text, num_counted, stop = self._push_ids(output.new_ids, output)
            delta.text += text if self._lines is None else self._lines.push(text)
        else:
            num_counted, stop = self._read(self._reader, output, delta)
        if output.logprobs is not None:
            counted = output.logprobs[:num_counted]
            self.total_logprob += sum(scores.logprob for scores in counted)
            if self._offsets is not None:
                delta.tokens = [*delta.tokens, *(self._scored(scores) for scores in counted)]
        delta.token_ids = output.new_ids[:num_counted]
        delta.prompt_logprobs = output.prompt_logprobs
        self.num_tokens += num_counted
        if num_counted and output.num_predicted:
            self.num_predicted = output.num_predicted[num_counted - 1]
        self.meter.count(output, num_counted)
        if self._lines is not None and self._lines.is_reached:
            delta.finish = Finish(FinishReason.LENGTH, None)
        elif stop is not None or output.finish_reason is not None:
            delta.finish = self._finish(output, stop)
        if delta.finish is not None:
            self.meter.end(FinishReason.TIMEOUT if delta.finish.is_timeout else delta.finish.reason)
            if self._reader is not None and self._reader.is_within_call:
                delta.finish = replace(delta.finish, is_within_call=True)
        return delta

    def _push_prompt(self, output: RequestOutput, delta: ChoiceDelta) -> None:
        delta.text = self.prompt.text
        if self._offsets is None:
            return
        scores = output.prompt_logprobs or [None] * len(self.prompt.ids)
        tokens = delta.tokens = []
        num_top = self._options.echo_top
        for token_id, score in zip(self.prompt.ids, scores, strict=True):
            top = [] if score is None else score.top[:num_top]
            logprob = 0.0 if score is None else score.logprob
            tokens.append(self._scored(TokenLogprobs(token_id, logprob, top), is_first=score is None))

    def _read(self, reader: ChoiceReader, output: RequestOutput, delta: ChoiceDelta) -> tuple[int, str | None]:
        """Push ids one by one, so that reasoning tokens can be counted, and add the reader's pieces to the delta.
        Returns the number of ids that count as output, and a stop string if found."""
        num_counted, stop = 0, None
        ids = output.new_ids
        pieces: list[ChoicePiece] = []
        for position in range(max(1, len(ids))):
            is_last = position + 1 >= len(ids)
            text, num, stop = self._push_ids(ids[position : position + 1], output if is_last else None, num_counted)
            has_ended = stop is not None or (is_last and output.finish_reason is not None)
            pieces += reader.push(text, is_last=has_ended)
            delta.may_be_call |= reader.may_be_calling
            num_counted += num
            self.num_reasoning += num if reader.is_thinking else 0
            if has_ended:
                break
        delta.pieces = join_pieces(pieces) if len(pieces) > 1 else pieces
        return num_counted, stop

    def _push_ids(
        self, ids: list[int], output: RequestOutput | None, num_before: int = 0
    ) -> tuple[str, int, str | None]:
        """Return the text released by `ids`, the number of ids that count as output, and a stop string if found.

        output: the engine output that ends with `ids`; None if more of its ids follow. num_before: number of
        its earlier ids that count.
        """
        ended = output is not None and output.finish_reason is not None
        if self._is_free and not ended:
            text = self._detokenizer.push_one(ids[0]) if len(ids) == 1 else self._detokenizer.push(ids)
            return text, len(ids), None
        is_hidden = output is not None and output.stop_token_id is not None and not self._options.include_stop
        hidden = 1 if is_hidden else 0
        visible = ids[: len(ids) - hidden]
        num_free = min(len(visible), max(0, self._options.min_tokens - 1 - self.num_tokens - num_before))
        free_text = self._detokenizer.push(visible[:num_free])
        text, num_ids, stop = self._text.push(visible[num_free:], is_last=ended)
        return free_text + text, num_free + num_ids + (hidden if stop is None else 0), stop

    def _scored(self, scores: TokenLogprobs, *, is_first: bool = False) -> ScoredToken:
        assert self._offsets is not None
        offset = self._offset
        self._offset += len(self._offsets.push_one(scores.token_id))
        if is_first:
            return ScoredToken(scores.token_id, None, None, offset)
        return ScoredToken(scores.token_id, scores.logprob, scores.top, offset)

    def _finish(self, output: RequestOutput, stop: str | None) -> Finish:
        """Return the end of an output that has one, or of a text with a stop string."""
        if stop is not None:
            return Finish(FinishReason.STOP, stop)
        assert output.finish_reason is not None
        match output.finish_reason:
            case FinishReason.ERROR if output.is_refused:
                self.meter.end(FinishReason.ERROR)
                param = output.refused_param or self._grammar_param
                raise InvalidRequest(f"{param} cannot be followed: {output.error}", param=param)
            case FinishReason.ERROR:
                self.meter.end(FinishReason.ERROR)
                raise RequestFailed(output.error or "the engine could not complete this request")
            case FinishReason.ABORT:
                self.meter.end(FinishReason.ABORT)
                raise EngineUnavailable("the server ended this request because it is shutting down")
            case FinishReason.TIMEOUT:
                return Finish(FinishReason.LENGTH, TIMEOUT_STOP_REASON, is_timeout=True)
            case FinishReason.STOP if output.stop_token_id not in self._eos_ids:
                return Finish(FinishReason.STOP, output.stop_token_id)
        return Finish(output.finish_reason, None)
