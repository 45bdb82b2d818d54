"""AnswerPlan: how an answer is constrained (grammar, thinking budget) and parsed (reasoning, tool calls)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest
from engine.protocol import ThinkingBudget
from server.chat.rendering import RenderedPrompt
from server.chat.tools import ChatTools
from server.generation.choice_reader import ChoiceReader
from server.metrics.values import Metrics
from server.reasoning.marks import ReasoningMarks, opens_thought
from server.reasoning.reader import reasoning_reader
from server.structured_outputs.grammar import GrammarBuilder
from server.structured_outputs.request import Constraint, constraint_of
from server.text.tokenizer import Tokenizer
from server.text_model import ChatModel
from server.tools.format import ToolFormat

_BLANKS = r"[ \t\r\n]{0,4}"  # between a thought and the answer


@dataclass(frozen=True, slots=True)
class ThoughtPlan:
    """The model's reasoning marks, such as <think>, and whether the prompt ends inside a thought."""

    marks: ReasoningMarks
    is_open: bool  # the prompt ends inside a thought


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """Grammar, thinking budget and parsers of an answer. By default, the answer is any text, all of it content."""

    grammar: str | None = None
    grammar_param: str | None = None  # the field to name if the engine refuses the grammar
    thinking: ThinkingBudget | None = None
    thought: ThoughtPlan | None = None
    tools: ChatTools | None = None
    tool_format: ToolFormat | None = None  # that reads the answer, for its calls or its header
    kept_ids: frozenset[int] = frozenset()  # special tokens that the parsers need to see
    ignored: list[str] = field(default_factory=list)

    def reader(self, metrics: Metrics) -> ChoiceReader | None:
        """Create the ChoiceReader of one choice; None if its text has neither reasoning nor tool calls."""
        if self.thought is None and self.tool_format is None:
            return None
        thought, tools, tool_format = self.thought, self.tools, self.tool_format
        has_one = self.grammar is not None  # since the grammar says what follows the thought
        reasoning = None
        if thought is not None:
            reasoning = reasoning_reader(thought.marks, is_open=thought.is_open, has_one=has_one)
        if tool_format is None:
            return ChoiceReader(reasoning, None, metrics=metrics)
        callable_tools = () if tools is None else tools.callable
        return ChoiceReader(
            reasoning,
            tool_format.parser({tool.name: tool.parameters for tool in callable_tools}),
            metrics=metrics,
            format_name=tool_format.name,
            call_id_length=tool_format.call_id_length,
        )


def plan_text(constraint_fields: Mapping[str, Any], tokenizer: Tokenizer) -> AnswerPlan:
    """Plan the answer of a text completion, without reasoning or tool calls. Raises InvalidRequest for invalid
    structured outputs."""
    constraint = constraint_of(constraint_fields)
    if constraint is None:
        return AnswerPlan()
    builder = GrammarBuilder(tokenizer.ids_of_marks)
    grammar = builder.build(constraint.expression(builder))
    return AnswerPlan(grammar=grammar, grammar_param=constraint.param, ignored=list(constraint.ignored))


def plan_answer(
    source: RenderedPrompt,
    chat: ChatModel,
    tokenizer: Tokenizer,
    *,
    constraint: Constraint | None,
    thinking_budget: int | None,
) -> AnswerPlan:
    """Plan the answer to a rendered chat prompt. Raises InvalidRequest if the fields that constrain it conflict."""
    if source.rendered.user_end is not None:
        return _plan_user_message(source, tokenizer, constraint, thinking_budget)
    prompt, tools, tool_format = source.rendered.prompt, source.tools, chat.tool_format
    thought = _thought_of(prompt, chat)
    special_ids = tokenizer.ids_of_marks
    header = tool_format.answer_header(prompt)
    grammar = _grammar(GrammarBuilder(special_ids), thought, constraint, tools, tool_format, header)
    marks = [*tool_format.marks] if tools is not None or header else []
    marks += [] if thought is None else [*thought.marks.special_texts]
    ignored = [*([] if constraint is None else constraint.ignored), *source.ignored]
    if thinking_budget is not None and thought is None and chat.reasoning is not None:
        ignored.append("thinking_token_budget")  # the prompt tells the model not to think
    return AnswerPlan(
        grammar=grammar,
        grammar_param=constraint.param if constraint is not None else "tools",
        thinking=_budget(thinking_budget, thought, chat, tokenizer),
        thought=thought,
        tools=tools,
        tool_format=tool_format if tools is not None or header else None,
        kept_ids=_kept_ids(marks, special_ids),
        ignored=ignored,
    )


def _plan_user_message(
    source: RenderedPrompt, tokenizer: Tokenizer, constraint: Constraint | None, thinking_budget: int | None
) -> AnswerPlan:
    """Plan the rest of a user's message, which has neither reasoning nor calls. Raises InvalidRequest if a call is
    required, or the template does not show how the message ends."""
    if not source.rendered.user_end:
        raise InvalidRequest(
            "continue_final_message: the last message is the user's, and the chat template writes nothing after it, so "
            "the model could not end it; start the server with another template (--chat-template), or leave this field "
            "out",
            param="continue_final_message",
        )
    if source.tools is not None and source.tools.must_call:
        raise InvalidRequest(
            "tool_choice requires a call, and continue_final_message continues a message of the user, who calls no "
            "tools; leave one of them out",
            param="tool_choice",
        )
    builder = GrammarBuilder(tokenizer.ids_of_marks)
    ignored = [*([] if constraint is None else constraint.ignored), *source.ignored]
    return AnswerPlan(
        grammar=None if constraint is None else builder.build(constraint.expression(builder)),
        grammar_param=None if constraint is None else constraint.param,
        ignored=ignored if thinking_budget is None else [*ignored, "thinking_token_budget"],
    )


def _thought_of(prompt: str, chat: ChatModel) -> ThoughtPlan | None:
    marks = chat.reasoning
    if marks is None or prompt.rstrip().endswith(marks.end):  # the prompt already has an empty thought
        return None
    return ThoughtPlan(marks, opens_thought(prompt, marks))


def _grammar(
    builder: GrammarBuilder,
    thought: ThoughtPlan | None,
    constraint: Constraint | None,
    tools: ChatTools | None,
    tool_format: ToolFormat,
    header: str,
) -> str | None:
    wanted = None if constraint is None else constraint.expression(builder)
    if wanted is not None and header:
        wanted = f"{builder.literal(header)} {wanted}"
    if wanted is not None and thought is not None and thought.marks.answer_header:
        wanted = f"{builder.literal(thought.marks.answer_header)} {wanted}"
    if tools is not None:
        # With a constraint, an answer is either calls or matches the constraint. Without one, text may precede calls.
        min_calls = 1 if tools.must_call or constraint is not None else 0
        body = tool_format.grammar(builder, tools.callable, min_calls=min_calls, is_parallel=tools.is_parallel)
        if wanted is not None and not tools.must_call:
            body = builder.rule(body, wanted)
    elif wanted is not None:
        body = wanted
    else:
        return None
    return builder.build(body if thought is None else _after_thought(builder, thought, body))


def _after_thought(builder: GrammarBuilder, thought: ThoughtPlan, body: str) -> str:
    end = builder.text_until(thought.marks.thought_end)
    if not thought.marks.answer_header:
        end = f"{end} {builder.regex(_BLANKS)}"
    if thought.is_open:
        return f"{end} {body}"
    return builder.rule(f"{builder.literal(thought.marks.start)} {end} {body}", body)


def _budget(
    max_tokens: int | None, thought: ThoughtPlan | None, chat: ChatModel, tokenizer: Tokenizer
) -> ThinkingBudget | None:
    if max_tokens is None or (thought is None and chat.reasoning is not None):
        return None
    if thought is None:
        raise InvalidRequest(
            "thinking_token_budget is given, and nothing in this model's chat template shows that it thinks; leave it "
            "out, or start the server with --reasoning-parser",
            param="thinking_token_budget",
        )
    start, end = (tokenizer.token_to_id(mark) for mark in (thought.marks.start, thought.marks.end))
    if end is None or (start is None and not thought.is_open):
        raise InvalidRequest(
            "thinking_token_budget needs marks around the thought that are one token each; this model's are not: leave "
            "it out",
            param="thinking_token_budget",
        )
    return ThinkingBudget(max_tokens, start, end, thought.is_open)


def _kept_ids(marks: list[str], special_ids: Mapping[str, int]) -> frozenset[int]:
    return frozenset(token_id for text, token_id in special_ids.items() if any(text in mark for mark in marks))
