"""guard_prompt: a guard's questions about one text."""

from itertools import takewhile

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo, ScoredQuestion
from engine.protocol.scoring import Path
from server.decisions.decision import Decision, Kind, Question
from server.decisions.prompt import DecisionPrompt
from server.generation.params.prompts import refusing_long_prompts
from server.moderations.categories import ModerationPrompt
from server.moderations.guards.granite_guardian import GraniteGuardian
from server.moderations.guards.guard import Guard, GuardQuestion
from server.moderations.guards.llama_guard import LlamaGuard
from server.moderations.guards.shieldgemma import ShieldGemma
from server.text.chat_templates.chat_template import ChatTemplate
from server.text.tokenizer import Tokenizer
from server.text_model import TextModel

GUARDS: tuple[Guard, ...] = (LlamaGuard(), ShieldGemma(), GraniteGuardian())


def find_guard(template: ChatTemplate) -> Guard | None:
    """Return the guard whose template it is; None for models that were not trained to moderate."""
    return next((guard for guard in GUARDS if guard.recognizes(template)), None)


def guard_prompt(
    guard: Guard, text: str, path: str, text_model: TextModel, info: EngineInfo, *, min_mass: float, cache_salt: str
) -> ModerationPrompt:
    """Render and tokenize a guard's questions about a text on the calling thread. path: the text's place in the
    request.

    Raises InvalidRequest if the chat template does not show the text or a category, and ContextLengthExceeded.
    """
    assert text_model.chat is not None
    template, tokenizer = text_model.chat.template, text_model.tokenizer
    questions = guard.questions(template)
    if not questions:
        raise InvalidRequest(
            f"this model's chat template is that of a guard ({guard.wording}) and has no category that this server "
            "knows; use another model",
            param="model",
            code="model_not_suited",
        )
    prompts = []
    for question in questions:
        rendered = template.render([{"role": "user", "content": text}], kwargs=question.variables)
        if text.strip() not in rendered.text:
            raise InvalidRequest(
                "this model's chat template does not show the text that it is to moderate; start the server with "
                "another one: --chat-template",
                param="model",
            )
        with refusing_long_prompts(info.max_model_len, path):
            prompt = rendered.prompt + question.opening
            ids = tokenizer.encode_chat(prompt, rendered.hidden, at_most=info.max_model_len, cache_salt=cache_salt)
        prompts.append(ids)
    num_shared = min(_num_shared(prompts), min(map(len, prompts)) - 1)  # each question has a token of its own
    parts = []
    for question, ids in zip(questions, prompts, strict=True):
        part = ScoredQuestion(ids[num_shared:], _labels(question, tokenizer))
        num_tokens = len(ids) + part.max_label_tokens
        if num_tokens > info.max_model_len:
            raise ContextLengthExceeded(
                f"{path} is too long", param=path, num_tokens=num_tokens, limit=info.max_model_len
            )
        parts.append(part)
    asking = [Question(Kind.PREDICATE if len(each.labels) == 2 else Kind.CHOICE, "", path) for each in questions]
    findings = [[label.categories for label in question.labels] for question in questions]
    decision = Decision(text, asking, min_mass)
    return ModerationPrompt(decision, DecisionPrompt(prompts[0][:num_shared], parts), findings, guard.wording)


def _num_shared(prompts: list[list[int]]) -> int:
    """Return the number of tokens that all prompts begin with."""
    return sum(1 for _ in takewhile(lambda ids: len({*ids}) == 1, zip(*prompts, strict=False)))


def _labels(question: GuardQuestion, tokenizer: Tokenizer) -> list[list[Path]]:
    """Return the paths of each label. Raises InvalidRequest if two labels have the same."""
    labels = [
        sorted({tuple(tokenizer.encode_inside(text, parse_special=False)) for text in label.spellings})
        for label in question.labels
    ]
    paths = [path for label in labels for path in label]
    if () in paths or len({*paths}) < len(paths):
        raise InvalidRequest(
            "the model's tokenizer makes nothing, or the same, of two answers of this guard; use another model",
            param="model",
        )
    return labels
