"""Request fields of a beam search: its options, and fields that it refuses or ignores."""

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidRequest
from server.generation.answer_plan import AnswerPlan
from server.generation.beams.search import BeamOptions, EarlyStopping
from server.schemas.sampling import GenerationRequest

_MAX_WIDTH = 32

# Fields that would change which tokens are likely, or end an answer by its text, with their neutral values.
_REFUSED: Mapping[str, tuple[Any, ...]] = {
    "stop": (None, []),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "logit_bias": (None, {}),
    "logprob_token_ids": (None,),
    "bad_words": (None, []),
    "allowed_token_ids": (None, []),
    "dry_multiplier": (None, 0.0),
    "thinking_token_budget": (None,),
}

# Fields of random draws, which a beam search does not make, and hints that only make an answer come sooner.
_IGNORED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "top_n_sigma",
    "xtc_probability",
    "mirostat",
    "seed",
    "prediction",
)


def beam_options(body: GenerationRequest) -> tuple[BeamOptions | None, list[str]]:
    """Return the options, or None for a request that samples, and the ignored fields. Raises InvalidRequest."""
    if not body.use_beam_search:
        for name, neutral in (("length_penalty", 1.0), ("early_stopping", False)):
            if getattr(body, name) not in (None, neutral):
                raise InvalidRequest(f"{name} needs use_beam_search: true", param=name)
        return None, []
    width = body.num_candidates
    name = "n" if width == body.num_choices else "best_of"
    if width > _MAX_WIDTH:
        raise InvalidRequest(f"{name} is {width}; a beam search has at most {_MAX_WIDTH} beams", param=name)
    if body.stream:
        raise InvalidRequest(
            "use_beam_search and stream are both true; which beams are the best is known when all have ended, so they "
            "cannot be streamed: leave out stream",
            param="use_beam_search",
        )
    if body.max_tokens == 0:
        raise InvalidRequest("max_tokens is 0; with use_beam_search it must be at least 1", param="max_tokens")
    for name, neutral_values in _REFUSED.items():
        if getattr(body, name, None) not in neutral_values:
            raise InvalidRequest(
                f"use_beam_search and {name} are both given; beams are ranked by what the model itself finds likely: "
                f"leave out {name}",
                param=name,
                code="unsupported_parameter",
            )
    ignored = [name for name in _IGNORED if getattr(body, name, None) is not None]
    length_penalty = 1.0 if body.length_penalty is None else body.length_penalty
    early_stopping = EarlyStopping(False if body.early_stopping is None else body.early_stopping)
    return BeamOptions(width, length_penalty, early_stopping), ignored


def check_beam_plan(plan: AnswerPlan) -> None:
    """Raise InvalidRequest if the answer must follow a grammar: the engine masks the tokens that it samples, but not
    the log probabilities by which beams are ranked."""
    if plan.grammar is not None:
        raise InvalidRequest(
            f"use_beam_search and {plan.grammar_param} are both given; beams cannot follow a grammar, which tools need "
            "too: leave out one of them",
            param=plan.grammar_param,
            code="unsupported_parameter",
        )
