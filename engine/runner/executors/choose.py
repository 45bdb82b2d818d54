"""Selection of the executor for a model and device."""

from collections.abc import Sequence

from engine.runner.executors.executor import EagerExecutor, Executor
from engine.runner.executors.recorded import recorded_executor
from engine.scheduling.kv.groups import KVGroup
from models.kv.layer import LayerCache
from models.loaded_model import LoadedModel


def make_executor(model: LoadedModel, kv: Sequence[LayerCache], groups: tuple[KVGroup, ...]) -> Executor:
    """Create the fastest executor that can run the model on its device. kv: the KV cache of all passes. groups: of
    their block tables."""
    return recorded_executor(model, kv, groups) or EagerExecutor(model.decoder, kv)
