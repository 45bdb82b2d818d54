"""learning_rate: by the step; it warms up, and then falls to zero."""

import math

from engine.command_io.finetuning.job import Schedule


def learning_rate(highest: float, step: int, num_steps: int, warmup_ratio: float, schedule: Schedule) -> float:
    """Of a step counted from 0; the highest is reached after the warm-up."""
    num_warmup = math.ceil(warmup_ratio * num_steps)
    if step < num_warmup:
        return highest * (step + 1) / num_warmup
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)  # below 1
    match schedule:
        case Schedule.LINEAR:
            return highest * (1 - progress)
        case Schedule.COSINE:
            return highest * (1 + math.cos(math.pi * progress)) / 2
        case Schedule.CONSTANT:
            return highest
