"""ChatFormatter: formats a generation as OpenAI's chat completion."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Any

from msgspec import UNSET

from engine.protocol import FinishReason, TokenLogprobs
from server.generation.choice import ChoiceDelta, Finish, ScoredToken
from server.generation.choice_reader import CallPiece, ChoicePiece, Content, Thought
from server.generation.generation import Generation
from server.protocols.frame import OPENAI_STREAM, TextFrames, frame, openai_error
from server.protocols.logprobs import LogprobsFormat, prompt_logprobs
from server.protocols.reports import Reports
from server.schemas.answers import (
    CalledFunction,
    ChatAnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatToolCall,
)
from server.schemas.chat import ChatCompletionRequest
from server.served.model import ServedModel
from server.text.tokenizer import Tokenizer


@dataclass(slots=True)
class _Answer:
    content: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    calls: list[ChatToolCall] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish: Finish | None = None

    def add(self, delta: ChoiceDelta) -> None:
        self.content.append(delta.text)
        self.tokens += delta.tokens
        self.token_ids += delta.token_ids
        self.prompt_logprobs = delta.prompt_logprobs or self.prompt_logprobs
        self.finish = delta.finish or self.finish
        for piece in delta.pieces:
            match piece:
                case Thought(text=text):
                    self.thought.append(text)
                case Content(text=text):
                    self.content.append(text)
                case CallPiece(index=index, name=None, arguments=arguments):
                    self.calls[index].function.arguments += arguments
                case CallPiece(name=name, arguments=arguments, id=call_id):
                    function = CalledFunction(name or "", arguments)
                    self.calls.append(ChatToolCall(function, id=call_id or "", type="function"))


class ChatFormatter:
    """Formats one generation as a chat completion, or as its chunks."""

    stream_form = OPENAI_STREAM
    broken = staticmethod(openai_error)

    def __init__(self, body: ChatCompletionRequest, model: ServedModel, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._format = LogprobsFormat(tokenizer, as_token_ids=bool(body.return_tokens_as_token_ids))
        self._has_logprobs = bool(body.logprobs)
        self._num_prompt_logprobs = body.prompt_logprobs
        self._has_ids = bool(body.return_token_ids)
        self._reports = Reports(body, "chatcmpl", model)
        self._include_reasoning = body.include_reasoning is not False
        self._is_legacy = bool(body.functions)  # the answer has function_call in place of tool_calls
        self._may_call = bool(body.tools or body.functions)

    async def collect(self, generation: Generation) -> ChatCompletion:
        answers = [_Answer() for _ in range(len(generation.choices))]
        async for delta in generation:
            answers[delta.index].add(delta)
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        completion = ChatCompletion(choices=choices, **self._reports.of_answer(generation))
        if self._num_prompt_logprobs is not None:
            scores = answers[0].prompt_logprobs or []
            completion.prompt_logprobs = prompt_logprobs(scores, self._num_prompt_logprobs, self._tokenizer)
        if self._has_ids:
            completion.prompt_token_ids = generation.params.prompts[0].ids
        return completion

    def _choice(self, index: int, answer: _Answer) -> ChatChoice:
        assert answer.finish is not None
        content, thought = "".join(answer.content), "".join(answer.thought)
        message = ChatAnswerMessage(content=None if answer.calls and not content else content)
        if thought and self._include_reasoning:
            message.reasoning_content = message.reasoning = thought
        if answer.calls and self._is_legacy:
            message.function_call = answer.calls[0].function
        elif answer.calls:
            message.tool_calls = answer.calls
        reason = self._finish_reason(answer.finish, has_calls=bool(answer.calls))
        choice = ChatChoice(index, message, self._logprobs(answer.tokens), reason, answer.finish.stop_reason)
        if self._has_ids:
            choice.token_ids = answer.token_ids
        return choice

    async def events(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        started: set[int] = set()  # choices whose role is sent
        calling: set[int] = set()  # choices with calls
        with_content: set[int] = set()  # choices with content
        unsent_ids: dict[int, list[int]] = {}  # token ids of each choice, if requested
        unsent_scores: dict[int, list[ScoredToken]] = {}  # log probabilities of tokens without a chunk
        is_plain = not self._has_logprobs and not self._has_ids and self._reports.are_constant
        texts = TextFrames(
            lambda index, text: ChatChunk(
                choices=[ChatChunkChoice(index, ChatDelta(content=text))], **self._reports.of_chunk(generation)
            )
        )
        async for delta in generation:
            index = delta.index
            if is_plain and index in started and (text := _only_text(delta)):  # the common case, once per token
                with_content.add(index)
                yield texts.frame(index, text)
                continue
            deltas = list(self._deltas(delta, has_content=index in with_content))
            is_visible = bool(deltas) or delta.num_prompt_computed is not None or delta.finish is not None
            if index not in started and is_visible:
                starting = [index] if self._may_call else range(len(generation.choices))
                for each in starting:
                    yield self._first_chunk(each, deltas, generation, has_prompt_ids=not started)
                    started.add(each)
            if delta.num_prompt_computed is not None:
                yield self._chunk([ChatChunkChoice(index, ChatDelta())], self._reports.of_progress(generation, delta))
            if self._has_ids:
                unsent_ids.setdefault(index, []).extend(delta.token_ids)
            unsent_scores.setdefault(index, []).extend(delta.tokens)
            for chat_delta in deltas:
                if chat_delta.tool_calls is not UNSET or chat_delta.function_call is not UNSET:
                    calling.add(index)
                if chat_delta.content:
                    with_content.add(index)
                logprobs = self._logprobs(unsent_scores.pop(index, []))  # once per token
                choice = ChatChunkChoice(index, chat_delta, logprobs, token_ids=unsent_ids.pop(index, UNSET))
                yield self._chunk([choice], self._reports.of_chunk(generation))
            if (finish := delta.finish) is not None:
                reason = self._finish_reason(finish, has_calls=index in calling)
                scores = unsent_scores.pop(index, [])
                logprobs = self._logprobs(scores) if scores else None
                choice = ChatChunkChoice(index, ChatDelta(), logprobs, reason, finish.stop_reason)
                choice.token_ids = unsent_ids.pop(index, UNSET)
                yield self._chunk([choice], self._reports.of_chunk(generation))
        if self._reports.has_usage_chunk:
            yield self._chunk([], self._reports.of_answer(generation))

    def _first_chunk(
        self, index: int, deltas: list[ChatDelta], generation: Generation, *, has_prompt_ids: bool
    ) -> bytes:
        """Return the chunk with the role of a choice. deltas: its first ones; if tools may be called, the content is
        null unless the choice begins with content."""
        content = "" if not self._may_call or (deltas and deltas[0].content is not UNSET) else None
        reports = self._reports.of_chunk(generation)
        if self._has_ids and has_prompt_ids:
            reports = {**reports, "prompt_token_ids": generation.params.prompts[0].ids}
        return self._chunk([ChatChunkChoice(index, ChatDelta("assistant", content, None))], reports)

    def _deltas(self, delta: ChoiceDelta, *, has_content: bool) -> Iterable[ChatDelta]:
        """Yield the API's deltas for one delta of the choice, in order. has_content: content was sent.

        Counted tokens without text get a delta too, so that a stream has something for each step, unless they belong to
        a call, or may. It is empty before the first content of an answer that may call, whose content may stay null.
        """
        if delta.text:
            yield ChatDelta(content=delta.text)
        for piece in delta.pieces:
            chat_delta = self._of_piece(piece)
            if chat_delta is not None:
                yield chat_delta
        has_none = delta.token_ids and not delta.text and not delta.pieces and delta.finish is None
        if has_none and not delta.may_be_call:
            yield ChatDelta(content="") if has_content or not self._may_call else ChatDelta()

    def _of_piece(self, piece: ChoicePiece) -> ChatDelta | None:
        match piece:
            case Thought(text=text):
                return ChatDelta(reasoning_content=text, reasoning=text) if self._include_reasoning else None
            case Content(text=text):
                return ChatDelta(content=text)
            case CallPiece() if self._is_legacy:
                function = CalledFunction(UNSET if piece.name is None else piece.name, piece.arguments)
                return ChatDelta(function_call=function) if piece.index == 0 else None
            case CallPiece(index=index, name=None, arguments=arguments):
                return ChatDelta(tool_calls=[ChatToolCall(CalledFunction(UNSET, arguments), index)])
            case CallPiece(index=index, name=name, arguments=arguments, id=call_id):
                function = CalledFunction(name or "", arguments)
                return ChatDelta(tool_calls=[ChatToolCall(function, index, call_id or "", "function")])

    def _finish_reason(self, finish: Finish, *, has_calls: bool) -> str:
        if has_calls and finish.reason is FinishReason.STOP and not finish.is_within_call:
            return "function_call" if self._is_legacy else "tool_calls"
        return finish.reason.value

    def _chunk(self, choices: list[ChatChunkChoice], reports: dict[str, Any]) -> bytes:
        return frame(ChatChunk(choices=choices, **reports))

    def _logprobs(self, tokens: list[ScoredToken]) -> ChatLogprobs | None:
        return self._format.of_chat(tokens) if self._has_logprobs else None


def _only_text(delta: ChoiceDelta) -> str:
    """Return the content of a delta that has nothing else to report; "" if it has more, or no content."""
    if delta.finish is not None or delta.num_prompt_computed is not None:
        return ""
    match delta.pieces:
        case []:
            return delta.text
        case [Content(text=text)] if not delta.text:
            return text
    return ""
