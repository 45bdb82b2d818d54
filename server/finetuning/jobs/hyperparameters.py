"""hyperparameters_of: validates the method and hyperparameters in a request for a job."""

from collections.abc import Sequence

import msgspec

from engine.command_io.finetuning.auto import default_rank
from engine.command_io.finetuning.config import DEFAULT_LENGTH
from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.job import Hyperparameters, TrainingMethod
from engine.command_io.finetuning.method_fields import fields_of, misplaced
from engine.errors import InvalidRequest, UnsupportedParameter
from server.data.options import check_preparation
from server.finetuning.adapter_files import AdapterShape
from server.finetuning.scores.judge import JUDGE, judge_of
from server.schemas.base import quote
from server.schemas.finetuning import (
    FinetuningRequest,
    GivenDataPreparation,
    GivenHyperparameters,
    GivenMethod,
    TrainedEffort,
)

_OLD_PLACE = "hyperparameters"
_EFFORT = "reasoning_effort"
_DATA = "data_preparation"
# By method: parts that its lines do not have, and the steps that would score them.
_UNSCORED = {
    TrainingMethod.REINFORCEMENT: ("answers", ("max_perplexity", "min_ifd", "max_ifd", JUDGE)),
    TrainingMethod.PRETRAINING: ("instructions", ("min_ifd", "max_ifd")),
}
_SUPPORTED = ", ".join(TrainingMethod)


def hyperparameters_of(
    body: FinetuningRequest, *, max_rank: int, max_length: int | None, layers: Sequence[str], start: AdapterShape | None
) -> tuple[TrainingMethod, Hyperparameters]:
    """Return the training method and the hyperparameters of a request. Raises InvalidRequest for invalid ones.

    max_rank: largest LoRA rank that can be served. max_length: context length of the model; None if unknown. layers:
    kinds of layers that can be trained; empty if unknown. start: shape of the adapter that training continues from.
    """
    method, path, settings = _settings(body)
    for given, place in ((body.hyperparameters, _OLD_PLACE), (settings, path)):
        _check_effort(given, place, method)
    old, new = _values(body.hyperparameters, _OLD_PLACE, method), _values(settings, path, method)
    for name in old.keys() & new.keys():
        if old[name] != new[name]:
            raise InvalidRequest.of(
                f"{_OLD_PLACE}.{name}",
                f"is {quote(old[name])} and {path}.{name} is {quote(new[name])}; give one of them",
            )
    values = {**old, **new}
    paths = {name: f"{path if name in new else _OLD_PLACE}.{name}" for name in values}
    chosen = msgspec.convert(values, Hyperparameters)
    for name, reason in misplaced(chosen, method, has_validation=body.validation_file is not None):
        raise InvalidRequest.of(paths[name], f"is {quote(values[name])}; {reason}")
    if chosen.data_preparation is not None:
        _check_steps(chosen.data_preparation, method, f"{paths[_DATA]}.")
    _check_limits(chosen, paths, max_rank, max_length)
    _check_layers(chosen, paths, layers, start)
    is_cut = method is not TrainingMethod.REINFORCEMENT
    if is_cut and chosen.max_length is None and max_length is not None and max_length < DEFAULT_LENGTH:
        chosen = msgspec.structs.replace(chosen, max_length=max_length)
    return method, _shaped(chosen, method, paths, max_rank, start)


def _check_steps(options: PreparationOptions, method: TrainingMethod, path: str) -> None:
    """Raise InvalidRequest for steps that are invalid, or for which this method's lines have nothing to score."""
    check_preparation(options, path)
    judge_of(options, path)
    missing, names = _UNSCORED.get(method, ("", ()))
    for name in names:
        if getattr(options, name) is not None:
            reason = f"is given, and lines for {method} have no {missing}; leave it out"
            raise InvalidRequest.of(f"{path}{name}", reason)


def _settings(body: FinetuningRequest) -> tuple[TrainingMethod, str, GivenHyperparameters | None]:
    """Return the training method, and the path and value of its hyperparameters in the request."""
    given = body.method or GivenMethod(type=TrainingMethod.SUPERVISED.value)
    if given.type not in [*TrainingMethod]:
        raise UnsupportedParameter.of("method.type", f"is {quote(given.type)}; this server trains with {_SUPPORTED}")
    method = TrainingMethod(given.type)
    others = [name for name in TrainingMethod if name != method and getattr(given, name) is not None]
    if others:
        raise InvalidRequest.of(
            f"method.{others[0]}", f"is given and method.type is {quote(given.type)}; leave it out, or give that type"
        )
    settings = getattr(given, method.value)
    path = f"method.{method.value}"
    if settings is None:
        return method, f"{path}.hyperparameters", None
    for name in settings.extra:
        raise UnsupportedParameter.of(f"{path}.{name}", "is not supported; leave it out")
    return method, f"{path}.hyperparameters", settings.hyperparameters


def _values(given: GivenHyperparameters | None, path: str, method: TrainingMethod) -> dict[str, object]:
    """Return the given hyperparameters by name, without "auto" ones. Raises UnsupportedParameter for unknown names."""
    if given is None:
        return {}
    for name in given.extra:
        raise UnsupportedParameter.of(
            f"{path}.{name}", f"is not a hyperparameter of this server; {method} has {_known(method)}"
        )
    named = ((name, getattr(given, name)) for name in GivenHyperparameters.model_fields if name != _EFFORT)
    values: dict[str, object] = {name: value for name, value in named if value is not None}
    if (steps := given.data_preparation) is not None:
        for name in steps.extra:
            raise UnsupportedParameter.of(
                f"{path}.{_DATA}.{name}", f"is not a step; there are {', '.join(GivenDataPreparation.model_fields)}"
            )
        values[_DATA] = steps.model_dump(exclude_none=True)
    return values


def _known(method: TrainingMethod) -> str:
    names = {*fields_of(method), *([_EFFORT] if method is TrainingMethod.REINFORCEMENT else [])}
    return ", ".join(name for name in GivenHyperparameters.model_fields if name in names)


def _check_effort(given: GivenHyperparameters | None, path: str, method: TrainingMethod) -> None:
    """Raise UnsupportedParameter for any reasoning effort, except the default one with reinforcement."""
    effort = None if given is None else given.reasoning_effort
    if effort is None or (method is TrainingMethod.REINFORCEMENT and effort is TrainedEffort.DEFAULT):
        return
    param = f"{path}.{_EFFORT}"
    reason = "prompts are trained on as the chat template writes them by default"
    if method is not TrainingMethod.REINFORCEMENT:
        reason = f"it is reinforcement's, and the method is {method}"
    raise UnsupportedParameter.of(param, f"is {quote(effort)}; {reason}: leave it out")


def _check_limits(chosen: Hyperparameters, paths: dict[str, str], max_rank: int, max_length: int | None) -> None:
    if chosen.lora_rank is not None and chosen.lora_rank > max_rank:
        raise InvalidRequest(
            f"{paths['lora_rank']} is {chosen.lora_rank}; adapters of this model have at most rank {max_rank} "
            "(--max-lora-rank)",
            param=paths["lora_rank"],
        )
    if max_length is None:
        return
    if chosen.max_length is not None and chosen.max_length > max_length:
        raise InvalidRequest.of(paths["max_length"], f"is {chosen.max_length}; this model takes {max_length} tokens")
    if chosen.max_completion_tokens is not None and chosen.max_completion_tokens >= max_length:
        path = paths["max_completion_tokens"]
        raise InvalidRequest.of(
            path,
            f"is {chosen.max_completion_tokens}; this model takes {max_length} tokens, those of the prompt "
            f"included: give at most {max_length - 1}",
        )


def _check_layers(
    chosen: Hyperparameters, paths: dict[str, str], layers: Sequence[str], start: AdapterShape | None
) -> None:
    wanted = chosen.target_modules
    if not wanted:
        return
    path = paths["target_modules"]
    if layers and (unknown := [name for name in wanted if name not in layers]):
        raise InvalidRequest.of(
            path,
            f"has {quote(unknown[0])}; the layers of this model that can be trained are {', '.join(layers)}: "
            "name some of them, or leave it out for all",
        )
    if start is not None and (missing := sorted(start.layers - set(wanted))):
        raise InvalidRequest.of(
            path,
            f"lacks {quote(missing[0])}, which the adapter to continue has; add {', '.join(missing)}, or leave it out",
        )


def _shaped(
    chosen: Hyperparameters, method: TrainingMethod, paths: dict[str, str], max_rank: int, start: AdapterShape | None
) -> Hyperparameters:
    """Set rank and alpha to those of the adapter to continue, or else cap a default rank at `max_rank`. Raises
    InvalidRequest if they conflict."""
    if start is None:
        is_too_high = chosen.lora_rank is None and default_rank(method) > max_rank
        return msgspec.structs.replace(chosen, lora_rank=max_rank) if is_too_high else chosen
    for name, has in (("lora_rank", start.rank), ("lora_alpha", start.alpha)):
        given = getattr(chosen, name)
        if given is not None and given != has:
            raise InvalidRequest.of(paths[name], f"is {given:g}, and the adapter to continue has {has:g}; leave it out")
    return msgspec.structs.replace(chosen, lora_rank=start.rank, lora_alpha=start.alpha)
