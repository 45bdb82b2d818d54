"""decision_prompt: the token ids of a decision: of its state, which the questions share, and of each question."""

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo, ScoredQuestion
from engine.protocol.scoring import Path
from server.decisions.decision import Decision, Question
from server.decisions.wording import PLAIN_END, QUESTION_BEGIN, STATE_BEGIN, Worded, reads_alike, word
from server.generation.params.prompts import refusing_long_prompts
from server.reasoning.effort import ReasoningEffort
from server.reasoning.marks import opens_thought
from server.text.chat_templates.chat_template import RenderedChat
from server.text.tokenizer import Tokenizer
from server.text_model import ChatModel, TextModel

MAX_LABEL_TOKENS = 256
MAX_QUESTION_TOKENS = 1 << 20  # of all questions, in each rotation
MAX_SPELLING_TOKENS = 1 << 18  # of all spellings of their labels; the engine makes an object for each


@dataclass(frozen=True, slots=True)
class DecisionPrompt:
    """Token ids of a decision. branch_points: numbers of the state's first tokens with which other requests are likely
    to begin too."""

    state_ids: list[int]
    questions: list[ScoredQuestion]
    branch_points: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Tokens of the state, once, and of each question."""
        return len(self.state_ids) + sum(len(question.ids) for question in self.questions)

    @property
    def num_tokens_apart(self) -> int:
        """Tokens to compute without a prefix cache: the state again for each question."""
        return self.num_tokens + max(0, len(self.questions) - 1) * len(self.state_ids)


def decision_prompt(decision: Decision, text_model: TextModel, info: EngineInfo, *, cache_salt: str) -> DecisionPrompt:
    """Render and tokenize a decision on the calling thread. Raises InvalidRequest if the chat template cannot show it,
    and ContextLengthExceeded."""
    text = STATE_BEGIN + decision.state + QUESTION_BEGIN
    with refusing_long_prompts(info.max_model_len, decision.state_path):
        if text_model.chat is None:
            frame = _plain_frame(text, text_model.tokenizer, info)
        else:
            frame = _chat_frame(text, decision.state_path, text_model.chat, text_model.tokenizer, info, cache_salt)
        prefixes = (STATE_BEGIN + decision.state[:each] for each in decision.breakpoints)
        branch_points = [_num_common(frame.state_ids, frame.encode_state(prefix)) for prefix in prefixes]
    questions: list[ScoredQuestion] = []
    num_tokens = num_spelling = 0
    for question in decision.questions:
        prompt = _question_prompt(question, frame)
        _check_length(len(frame.state_ids) + len(prompt.ids), prompt.max_label_tokens, info.max_model_len, question)
        questions.append(prompt)
        num_tokens += len(prompt.ids)
        num_spelling += sum(len(path) for paths in prompt.labels for path in paths)
        _check_sum(num_tokens, MAX_QUESTION_TOKENS, "tokens", question)
        _check_sum(num_spelling, MAX_SPELLING_TOKENS, "tokens in the spellings of their labels", question)
    return DecisionPrompt(frame.state_ids, questions, branch_points)


def _num_common(ids: list[int], others: list[int]) -> int:
    """Return how many first ids are the same."""
    pairs = enumerate(zip(ids, others, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(ids), len(others)))


@dataclass(frozen=True, slots=True)
class _Frame:
    """The prompt around a question. encode_state: returns the ids of the prompt up to the end of a text that begins
    like the whole state. encode: returns the ids of a question's text and of all that follows it up to the answer.
    leads: texts that may stand before a label."""

    tokenizer: Tokenizer
    state_ids: list[int]
    encode_state: Callable[[str], list[int]]
    encode: Callable[[str], list[int]]
    leads: tuple[str, ...]
    known: dict[str, Path] = field(default_factory=dict)  # labels met so far

    def path(self, text: str) -> Path:
        if text not in self.known:
            self.known[text] = tuple(self.tokenizer.encode_inside(text, parse_special=False))
        return self.known[text]


def _plain_frame(text: str, tokenizer: Tokenizer, info: EngineInfo) -> _Frame:
    """Return the frame for a model without a chat template."""
    bos = tokenizer.encode("")[:1] if tokenizer.adds_bos else []

    def encode_state(text: str) -> list[int]:
        ids = tokenizer.encode(text, add_special_tokens=False, parse_special=False, at_most=info.max_model_len)
        return [*bos, *ids]

    return _Frame(
        tokenizer,
        encode_state(text),
        encode_state,
        lambda question: tokenizer.encode_inside(question + PLAIN_END, parse_special=False),
        _leads(PLAIN_END),
    )


def _chat_frame(
    text: str, path: str, chat: ChatModel, tokenizer: Tokenizer, info: EngineInfo, cache_salt: str
) -> _Frame:
    """Return the frame that the chat template makes, cut where a placeholder shows the question's place. path: the
    text's place in the request."""
    mark = f"{secrets.randbelow(10**36):036}"
    kwargs, _ = chat.effort.kwargs(ReasoningEffort.NONE)

    def render(text: str) -> RenderedChat:
        return chat.template.render([{"role": "user", "content": text + mark}], kwargs=kwargs)

    def encode_before(rendered: RenderedChat) -> list[int]:
        before = rendered.prompt.partition(mark)[0]
        return tokenizer.encode_chat(before, rendered.hidden, at_most=info.max_model_len, cache_salt=cache_salt)

    try:
        rendered = render(text)
    except InvalidRequest as error:
        error.param = path  # the client sent no messages
        raise
    _, found, after = rendered.prompt.partition(mark)
    if not found or mark in after:
        raise InvalidRequest(
            "this model's chat template does not show a user's message exactly once, so it cannot be cut behind the "
            "input; start the server with another one: --chat-template",
            param="model",
        )
    after = _opened_answer(after, chat)
    return _Frame(
        tokenizer,
        encode_before(rendered),
        lambda text: encode_before(render(text)),
        lambda question: tokenizer.encode_chat_inside(mark + after, {**rendered.hidden, mark: question}),
        _leads(after),
    )


def _opened_answer(prompt: str, chat: ChatModel) -> str:
    """Return the end of a prompt, extended to where the answer begins: an open thought is closed, and a header of the
    answer is written."""
    marks = chat.reasoning
    if marks is not None and not prompt.rstrip().endswith(marks.end):
        if opens_thought(prompt, marks):
            gap = "\n\n" if marks.end.startswith("</") else ""
            prompt = f"{prompt.rstrip()}{gap}{marks.end}{gap}"
        else:
            prompt += marks.answer_header
    return prompt + chat.tool_format.answer_header(prompt)


def _leads(prompt: str) -> tuple[str, ...]:
    """Return the texts that may stand between the prompt and a label: models write a space unless there is one."""
    return ("",) if prompt[-1:].isspace() else ("", " ")


def _question_prompt(question: Question, frame: _Frame) -> ScoredQuestion:
    worded = word(question, is_numbered=reads_alike(question))
    labels = _labels(question, worded, frame)
    if _has_equal(labels):  # the tokenizer makes the same of two texts
        worded = word(question, is_numbered=True)
        labels = _labels(question, worded, frame)
    if _has_equal(labels):
        raise InvalidRequest(
            f"the model's tokenizer makes the same of two labels of {question.path}, so nothing tells them apart; "
            "use another model",
            param=question.path,
            location=question.location,
        )
    return ScoredQuestion(frame.encode(worded.text), labels)


def _has_equal(labels: list[list[Path]]) -> bool:
    """Whether two labels have a path in common."""
    return len(set(itertools.chain(*labels))) < sum(map(len, labels))


def _labels(question: Question, worded: Worded, frame: _Frame) -> list[list[Path]]:
    """Return the paths of each label, without repetition."""
    labels = []
    for number, spellings in enumerate(worded.labels):
        paths = {frame.path(lead + spelling) for spelling in spellings for lead in frame.leads}
        if fault := _fault(paths):
            raise question.fault(f"{fault}; shorten it", number)
        labels.append(sorted(paths))
    return labels


def _fault(paths: set[Path]) -> str | None:
    if () in paths:
        return "has no tokens"
    longest = max(map(len, paths))
    return f"has {longest} tokens; the limit is {MAX_LABEL_TOKENS}" if longest > MAX_LABEL_TOKENS else None


def _check_sum(given: int, limit: int, what: str, last: Question) -> None:
    """Raise InvalidRequest if the questions up to the last one exceed a limit on all."""
    if given > limit:
        raise InvalidRequest(
            f"the questions up to {last.path} have {given:,} {what}, each rotation counted; the limit is {limit:,}; "
            "ask fewer questions in one request, shorten them, or ask for fewer permutations",
            param=last.path,
            location=last.location,
        )


def _check_length(num_tokens: int, num_label_tokens: int, limit: int, question: Question) -> None:
    """Raise ContextLengthExceeded if the longest label does not fit behind the question."""
    if num_tokens + num_label_tokens > limit:
        error = ContextLengthExceeded(
            f"the input and {question.path} have {num_tokens} tokens, and its longest label {num_label_tokens}; the "
            f"model takes {limit} together; shorten the input or the question",
            param=question.path,
            num_tokens=num_tokens + num_label_tokens,
            limit=limit,
        )
        error.location = question.location
        raise error
