"""The hyperparameters that each training method takes, and a check of given ones that do not apply."""

from engine.command_io.finetuning.job import Hyperparameters, Order, Pacing, TrainingMethod

_OF_DPO = ("beta", "rpo_alpha")
_OF_REINFORCEMENT = (
    *("compute_multiplier", "eval_interval", "eval_samples"),
    *("group_size", "max_completion_tokens", "kl_weight", "scale_rewards"),
)
_OF_ONE_METHOD = {
    **dict.fromkeys(_OF_DPO, TrainingMethod.DPO),
    **dict.fromkeys(_OF_REINFORCEMENT, TrainingMethod.REINFORCEMENT),
}


def fields_of(method: TrainingMethod) -> list[str]:
    """Return the names of the hyperparameters that a job of the method can have."""
    return [
        name
        for name in Hyperparameters.__struct_fields__
        if _OF_ONE_METHOD.get(name, method) is method
        and (name != "max_length" or method is not TrainingMethod.REINFORCEMENT)
    ]


def misplaced(given: Hyperparameters, method: TrainingMethod, *, has_validation: bool) -> list[tuple[str, str]]:
    """Return the given hyperparameters that do not apply to the job, each as (name, reason)."""
    found = [
        (name, f"it is {owner}'s, and the method is {method}: leave it out")
        for name, owner in _OF_ONE_METHOD.items()
        if owner is not method and getattr(given, name) is not None
    ]
    if given.early_stopping is not None and not has_validation:
        found.append(("early_stopping", "it needs a validation loss: give a validation file"))
    if given.pacing is not Pacing.NONE and given.order is Order.NONE:
        found.append(("pacing", "it needs an order: give file, length or difficulty as order"))
    if method is not TrainingMethod.REINFORCEMENT:
        return found
    if given.max_length is not None:
        reason = "prompts of reinforcement are not cut; the length of answers is max_completion_tokens: leave it out"
        found.append(("max_length", reason))
    if given.group_size is not None and given.compute_multiplier is not None:
        found.append(
            ("compute_multiplier", "it is a factor of the answers to a prompt, and so is group_size: give one")
        )
    if not has_validation:
        reason = "it is for validation: give a validation file"
        found += [(name, reason) for name in ("eval_interval", "eval_samples") if getattr(given, name) is not None]
    return found
