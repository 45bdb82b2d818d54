"""Whether a model pools texts or generates them, by the option and by what it was made for."""

from engine.config import Task


def pools(task: Task, by_default: bool) -> bool:
    """by_default: PoolingTraits.pools_by_default."""
    return task is Task.EMBED or (task is Task.AUTO and by_default)
