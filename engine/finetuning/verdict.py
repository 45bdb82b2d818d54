"""What measurements say of a training: warnings while it runs, and a line at its end."""

import math

from engine.finetuning.state import Measured, Progress

_FAR = 0.06  # nats a token from the base on its own answers, from which on answers to other questions often change


def warnings(progress: Progress, found: Measured) -> list[str]:
    """Of an epoch that ends with `found`; `progress` knows of the epochs before."""
    said = []
    if found.valid_loss is not None:
        if progress.best_loss is not None and found.valid_loss >= progress.best_loss:
            said.append(
                f"The validation loss was lower after step {progress.best_step} ({progress.best_loss:.4f}) than now "
                f"({found.valid_loss:.4f}): the adapter may be learning the examples by heart; fewer epochs may do "
                "better"
            )
        before = None if progress.before is None else progress.before.valid_loss
        if before is not None and found.valid_loss >= before:
            said.append(
                f"The validation loss was lower before training ({before:.4f}) than now ({found.valid_loss:.4f}): the "
                "adapter does worse than the base there; a lower learning rate or examples more like those may help"
            )
    if found.valid_reward is not None:  # means of few samples go up and down: only the first is compared with
        before = None if progress.before is None else progress.before.valid_reward
        if before is not None and found.valid_reward < before:
            said.append(
                f"The mean reward on the validation file was higher before training ({before:.4f}) than now "
                f"({found.valid_reward:.4f}): a lower learning rate, more samples of each prompt, or a grader "
                "that tells answers apart better may help"
            )
    if found.divergence is not None and found.divergence > _FAR:
        said.append(
            f"On questions that are not in the file, answers are {found.divergence:.2f} nats per token from the base's "
            "own: they may get worse; a lower learning rate, fewer epochs or more replay keeps them"
        )
    return said


def stopped_early(progress: Progress) -> str:
    """That training has ended at what was best."""
    if progress.best_reward is not None:
        best = f"a mean reward of {progress.best_reward:.4f} on the validation file"
    else:
        best = f"a validation loss of {progress.best_loss:.4f}"
    return f"Stopped early; the adapter is that of step {progress.best_step}, with {best}"


def before_and_after(before: Measured, after: Measured) -> str | None:
    """What was won and what was lost, in one line; None if neither was measured."""
    pairs = (
        ("perplexity on the validation file" if after.text_loss is not None else "validation loss", "valid_loss"),
        ("perplexity on general text", "text_loss"),
        ("mean reward on the validation file", "valid_reward"),
    )
    shown = []
    for name, attribute in pairs:
        first, last = getattr(before, attribute), getattr(after, attribute)
        if first is None or last is None:
            continue
        is_perplexity = name.startswith("perplexity")
        first, last = (math.exp(loss) if is_perplexity else loss for loss in (first, last))
        shown.append(f"{name} {first:.4g} -> {last:.4g}")
    if after.divergence is not None:
        shown.append(f"{after.divergence:.3f} nats per token from the base on its own answers")
    return "Before and after: " + ", ".join(shown) if shown else None
