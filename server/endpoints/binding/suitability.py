"""Checks that a model fits an endpoint; the errors suggest endpoints that fit the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequest
from engine.protocol import PoolingTask
from server.pooling.checks import pooling_info
from server.served.model import ServedModel

Tasks = tuple[PoolingTask, ...]


@dataclass(frozen=True, slots=True)
class SuitablePaths:
    """The paths of the endpoints for pooling models, each with the tasks for which errors suggest it."""

    endpoints: Sequence[tuple[str, Tasks]]

    def check_generates(self, model: ServedModel) -> None:
        """Raise InvalidRequest if the model is known to be a pooling model."""
        if (info := model.info) is not None and (pooling := info.pooling) is not None:
            fitting = self._paths(lambda tasks: any(task in pooling.tasks for task in tasks))
            raise InvalidRequest(
                f"the model {model.name!r} generates no text; it is for {', '.join(fitting)}",
                param="model",
                code="model_not_suited",
            )

    def chosen_task(self, model: ServedModel, wanted: Sequence[PoolingTask]) -> PoolingTask:
        """Return the first of the `wanted` tasks that the model supports. Raises InvalidRequest if there is none."""
        info = pooling_info(model)
        for task in wanted:
            if task in info.tasks:
                return task
        can = ", ".join(f"{task.value} ({' and '.join(self._made_for(task))})" for task in info.tasks)
        raise InvalidRequest(
            f"the model {model.name!r} cannot {' or '.join(task.value for task in wanted)}; it can {can}",
            param="model",
            code="model_not_suited",
        )

    def _made_for(self, task: PoolingTask) -> list[str]:
        return self._paths(lambda tasks: tasks[0] is task)

    def _paths(self, is_fitting: Callable[[Tasks], bool]) -> list[str]:
        """Return the paths whose tasks satisfy `is_fitting`, those with the fewest tasks first."""
        fitting = [(path, tasks) for path, tasks in self.endpoints if is_fitting(tasks)]
        return [path for path, tasks in sorted(fitting, key=lambda each: len(each[1]))]
