"""moderation_prompt: makes the questions about one text that give its scores: a guard's own, or a statement for each
category."""

import contextlib
from collections.abc import Iterator

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo
from server.decisions.decision import Decision, Kind, Question
from server.decisions.prompt import decision_prompt
from server.moderations.categories import NOTHING, Category, ModerationPrompt
from server.moderations.guards.prompt import find_guard, guard_prompt
from server.text_model import TextModel

GENERAL_WORDING = "general-2"  # any change to the statements, or to how they are asked, needs another name

# True statements about a text in the category
_STATEMENTS = {
    Category.HARASSMENT: "The text insults, bullies or humiliates someone, or calls on others to do so.",
    Category.HARASSMENT_THREATENING: (
        "The text insults or bullies someone and also threatens that person with violence or serious harm."
    ),
    Category.HATE: (
        "The text expresses or promotes hatred of people for their race, gender, ethnicity, religion, nationality, "
        "sexual orientation, disability or caste."
    ),
    Category.HATE_THREATENING: (
        "The text expresses hatred of people for their race, gender, ethnicity, religion, nationality, sexual "
        "orientation, disability or caste, and also threatens them with violence or serious harm."
    ),
    Category.ILLICIT: "The text explains or advises how to commit a crime or another illicit act.",
    Category.ILLICIT_VIOLENT: (
        "The text explains or advises how to commit a violent crime, or how to obtain or make a weapon."
    ),
    Category.SELF_HARM: ("The text encourages or describes self-harm, such as suicide, cutting or an eating disorder."),
    Category.SELF_HARM_INSTRUCTIONS: "The text explains how to harm oneself, or urges someone to do so.",
    Category.SELF_HARM_INTENT: "The writer says that they harm themselves, or intend to.",
    Category.SEXUAL: "The text is meant to arouse sexually or offers sexual services. Sex education does not count.",
    Category.SEXUAL_MINORS: "The text has sexual content that involves someone under 18 years.",
    Category.VIOLENCE: "The text describes death, violence or injuries.",
    Category.VIOLENCE_GRAPHIC: "The text describes death, violence or injuries in graphic detail.",
}


def moderation_prompt(
    text: str, path: str, text_model: TextModel, info: EngineInfo, *, min_mass: float, cache_salt: str
) -> ModerationPrompt:
    """Render and tokenize the questions about a text on the calling thread. path: the text's place in the request.

    Raises InvalidRequest if the chat template cannot show them, and ContextLengthExceeded.
    """
    guard = None if text_model.chat is None else find_guard(text_model.chat.template)
    with _placed(path):
        if guard is None:
            return _general_prompt(text, path, text_model, info, min_mass=min_mass, cache_salt=cache_salt)
        return guard_prompt(guard, text, path, text_model, info, min_mass=min_mass, cache_salt=cache_salt)


def _general_prompt(
    text: str, path: str, text_model: TextModel, info: EngineInfo, *, min_mass: float, cache_salt: str
) -> ModerationPrompt:
    """Ask whether a statement for each category is true."""
    questions = [Question(Kind.PREDICATE, statement, path) for statement in _STATEMENTS.values()]
    decision = Decision(text, questions, min_mass)
    prompt = decision_prompt(decision, text_model, info, cache_salt=cache_salt)
    findings = [(frozenset({category}), NOTHING) for category in _STATEMENTS]
    return ModerationPrompt(decision, prompt, findings, GENERAL_WORDING)


@contextlib.contextmanager
def _placed(path: str) -> Iterator[None]:
    """Make the errors of decisions name the text at `path` in a moderation."""
    try:
        yield
    except ContextLengthExceeded as error:
        raise ContextLengthExceeded(
            f"{path} has, with the questions about it, {'at least ' if error.is_at_least else ''}{error.num_tokens} "
            f"tokens; the model takes {error.limit}; shorten the text, or split it",
            param=path,
            num_tokens=error.num_tokens,
            limit=error.limit,
            is_at_least=error.is_at_least,
        ) from None
    except InvalidRequest as error:
        if error.param in ("input", "messages"):  # which the client did not send
            error.param = path
        raise
