"""Choice between pooling and generating, by --task and the model's purpose."""

from engine.config import Task
from engine.protocol import PoolingTask
from models.architecture.pooling import ScoreHeadSpec


def pools(task: Task, by_default: bool) -> bool:
    """Return whether the model pools texts (embeddings, scores). by_default: whether it does so with --task auto."""
    return task is Task.EMBED or (task is Task.AUTO and by_default)


def pooling_tasks(task: Task, score_head: ScoreHeadSpec | None) -> list[PoolingTask]:
    """Return the tasks of a model that pools texts: embeddings, or the scores of its head."""
    if score_head is None or task is Task.EMBED:
        return [PoolingTask.EMBED, PoolingTask.TOKEN_EMBED]
    return [PoolingTask.CLASSIFY, *([PoolingTask.SCORE] if score_head.num_labels == 1 else [])]
