"""Selection of the executor for a model and device."""

from collections.abc import Sequence

from engine.runner.executors.executor import EagerExecutor, Executor
from engine.runner.executors.graphs import device_executor
from engine.runner.executors.recorded import recorded_executor
from engine.scheduling.kv.groups import KVGroup
from models.kv.layer import LayerCache
from models.loaded_model import LoadedModel
from models.system.cuda_graphs import CudaGraphs


def make_executor(
    model: LoadedModel, kv: Sequence[LayerCache], groups: tuple[KVGroup, ...], graphs: CudaGraphs | None = None
) -> Executor:
    """Create the fastest executor that can run the model on its device. kv: the KV cache of all passes. groups: of
    their block tables. graphs: of the device, if it has any."""
    if graphs is not None:
        return device_executor(model, kv, groups, graphs)
    return recorded_executor(model, kv, groups) or EagerExecutor(model.decoder, kv)
