"""Labels of a classifier, as configurations state them."""

from models.config.hf_config import HFConfig
from models.errors import CheckpointError

_MAX_LABELS = 1 << 16


def num_labels(config: HFConfig) -> int:
    """Scores that the model gives a text: the labels that it names, or `num_labels`, or two."""
    names = labels(config)
    return len(names) if names else config.integer("num_labels", 2, maximum=_MAX_LABELS)


def labels(config: HFConfig) -> list[str]:
    """Names of the scores in their order; empty where the configuration has none. Raises CheckpointError."""
    named = config.raw("id2label") or {}
    try:
        by_id = {int(number): str(name) for number, name in named.items()}
        return [by_id[number] for number in range(len(by_id))]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{config.source}: id2label must name the labels 0, 1, 2 and so on; fetch the checkpoint's own "
            "configuration again"
        ) from None
