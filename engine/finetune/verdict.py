"""What measurements say of a training: warnings while it runs, and a line at its end."""

import math

from engine.finetune.state import Measured, Progress

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
    if found.divergence is not None and found.divergence > _FAR:
        said.append(
            f"On questions that are not in the file, answers are {found.divergence:.2f} nats per token from the base's "
            "own: they may get worse; a lower learning rate, fewer epochs or more replay keeps them"
        )
    return said


def before_and_after(before: Measured, after: Measured) -> str | None:
    """What was won and what was lost, in one line; None if neither was measured."""
    pairs = (
        ("perplexity on the validation file" if after.text_loss is not None else "validation loss", "valid_loss"),
        ("perplexity on general text", "text_loss"),
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
