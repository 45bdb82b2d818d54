"""Choice between pooling and generating, by --task and the model's purpose."""

from typing import TYPE_CHECKING

from engine.config import Task
from engine.protocol import PoolingTask
from engine.protocol.pooling import capabilities_of
from models.architecture.pooling import ScoreHeadSpec
from models.loading.open import OpenedModel
from models.pooling.traits import is_pooling_model
from models.sources.resolve import ModelFiles

if TYPE_CHECKING:
    from models.transformers_backend.open import OpenedTransformersModel


def pools(task: Task, by_default: bool) -> bool:
    """Return whether the model pools texts (embeddings, scores). by_default: whether it does so with --task auto."""
    return task is Task.EMBED or (task is Task.AUTO and by_default)


def pooling_tasks(task: Task, score_head: ScoreHeadSpec | None) -> list[PoolingTask]:
    """Return the tasks of a model that pools texts: embeddings, or the scores of its head."""
    if score_head is None or task is Task.EMBED:
        return [PoolingTask.EMBED, PoolingTask.TOKEN_EMBED]
    return [PoolingTask.CLASSIFY, *([PoolingTask.SCORE] if score_head.num_labels == 1 else [])]


def opened_capabilities(opened: "OpenedModel | OpenedTransformersModel", files: ModelFiles, task: Task) -> list[str]:
    """Return the capabilities of a model that is not loaded, by their names in a model card."""
    if isinstance(opened, OpenedModel) and pools(task, is_pooling_model(opened.spec, files.root)):
        return capabilities_of(pooling_tasks(task, opened.spec.score_head))
    return ["completion"]
