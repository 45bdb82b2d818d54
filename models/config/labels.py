"""Labels of a classifier in its configuration."""

from models.config.hf_config import HFConfig
from models.errors import CheckpointError

_MAX_LABELS = 1 << 16


def num_labels(config: HFConfig) -> int:
    """Return the number of scores of a text: the configuration's labels, else `num_labels`, else two."""
    names = labels(config)
    return len(names) if names else config.integer("num_labels", 2, maximum=_MAX_LABELS)


def labels(config: HFConfig) -> list[str]:
    """Return the names of the scores in order; empty if the configuration has none.

    Raises CheckpointError unless `id2label` names the labels 0, 1, 2 and so on.
    """
    named = config.raw("id2label") or {}
    try:
        by_id = {int(number): str(name) for number, name in named.items()}
        return [by_id[number] for number in range(len(by_id))]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{config.source}: id2label must name the labels 0, 1, 2 and so on; fetch the checkpoint's own "
            "configuration again"
        ) from None
