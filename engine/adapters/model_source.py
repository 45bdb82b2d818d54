"""ModelAdapters: the AdapterSource of a loaded model."""

from pathlib import Path

from models.adapters.read import read_adapter
from models.kernels.cpu.library import computing_alone
from models.linear.adapters.adapter import Adapter
from models.linear.adapters.decoder_adapters import PreparedAdapter
from models.loaded_model import LoadedModel


class ModelAdapters:
    """Reads adapters for a model whose adapters are enabled, and puts them into its slots. Work that overlaps with
    steps uses one thread: with more, streams would pause."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def read(self, path: str) -> Adapter:
        with computing_alone():
            return read_adapter(Path(path), self._model)

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        with computing_alone():
            return self._model.decoder.prepare_adapter(adapter)

    def put(self, slot: int, prepared: PreparedAdapter) -> None:
        self._model.decoder.set_adapter(slot, prepared)

    def empty(self, slot: int) -> None:
        self._model.decoder.set_adapter(slot, None)
