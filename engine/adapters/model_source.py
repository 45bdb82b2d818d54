"""ModelAdapters: the AdapterSource of a loaded model."""

from pathlib import Path

from models.adapters.read import read_adapter
from models.kernels.cpu.library import computing_alone
from models.linear.adapter import Adapter
from models.linear.decoder_adapters import PreparedAdapter
from models.loaded_model import LoadedModel


class ModelAdapters:
    """Reads adapters for the model, which has been told to have some, and puts them into its slots. What is computed
    beside the steps is computed by one thread: streams would pause for more."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def read(self, path: str) -> Adapter:
        with computing_alone():
            return read_adapter(Path(path), self._model)

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        with computing_alone():
            return self._model.prepare_adapter(adapter)

    def put(self, slot: int, prepared: PreparedAdapter) -> None:
        self._model.set_adapter(slot, prepared)

    def empty(self, slot: int) -> None:
        self._model.set_adapter(slot, None)
