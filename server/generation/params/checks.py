"""Checks that every generation request passes before its prompt is tokenized."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.wording import counted
from server.errors import needs_one_server
from server.generation.beams.search import BeamOptions
from server.schemas.parameters import ignored_parameters, refuse_unknown
from server.schemas.sampling import GenerationRequest
from server.served.model import ServedModel
from server.structured_outputs.request import CONSTRAINT_FIELDS, unknown_fields


@dataclass(frozen=True, slots=True)
class CheckedBody:
    """Results of the checks that need no engine.

    ignored: names of ignored fields. beams: None for a request that samples. num_logprobs: top log probabilities per
    generated token; None for no log probabilities.
    """

    ignored: list[str]
    beams: BeamOptions | None
    num_logprobs: int | None


def check_fields(
    body: GenerationRequest,
    model: ServedModel,
    *,
    extra: Mapping[str, Any] | None = None,
    passed_on: Mapping[str, Any] | None = None,
) -> list[str]:
    """Check the fields that need no engine; return the names of ignored ones. Raises InvalidRequest.

    extra: undeclared fields of the request. passed_on: undeclared fields that the chat template gets. Both default to
    those of the body.
    """
    extra = body.extra if extra is None else extra
    passed_on = body.passed_on if passed_on is None else passed_on
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    if body.return_progress and not body.stream:
        raise InvalidRequest("return_progress needs stream: true", param="return_progress")
    if body.has_continuous_usage and not body.include_usage:
        param = "stream_options.continuous_usage_stats"
        raise InvalidRequest(f"{param} needs stream_options.include_usage: true", param=param)
    if body.resumable:
        _check_resumable(body, model)
    others = {name: value for name, value in extra.items() if name not in CONSTRAINT_FIELDS}
    is_strict = model.config.strict_parameters
    ignored = ignored_parameters(others, strict=is_strict)
    if is_strict:
        refuse_unknown([*unknown_fields(extra), *passed_on])
    if body.priority and not model.honors_priority:
        ignored.append("priority")
    return ignored


def _check_resumable(body: GenerationRequest, model: ServedModel) -> None:
    if not body.stream:
        raise InvalidRequest("resumable needs stream: true", param="resumable")
    if model.config.is_one_of_several:
        raise UnsupportedParameter(
            f"resumable is true: {needs_one_server('resumable streams need')}", param="resumable"
        )
    if model.config.stream_resume_grace == 0:
        raise UnsupportedParameter(
            "resumable is true, and this server keeps no streams (--stream-resume-grace 0); leave it out",
            param="resumable",
        )


def check_num_choices(body: GenerationRequest, num_prompts: int, model: ServedModel) -> None:
    """Raise InvalidRequest for more choices than max_num_seqs and max_num_waiting together allow."""
    n = body.num_candidates
    name = "n" if n == body.num_choices else "best_of"
    limit = model.client.info.max_num_seqs + model.config.max_num_waiting
    if num_prompts * n <= limit:
        return
    given = f"{name} is {n}" if num_prompts == 1 else f"prompt has {num_prompts} prompts"
    if num_prompts > 1 and n > 1:
        given += f" with {n} choices each ({name}), {num_prompts * n} choices in all"
    raise InvalidRequest(
        f"{given}; one request may have {counted(limit, 'choice')} (--max-num-seqs and --max-num-waiting together)",
        param=name if num_prompts == 1 else "prompt",
    )
