"""ModelAdapters: the AdapterSource of a loaded model."""

from pathlib import Path

from models.adapters.read import read_adapter
from models.linear.adapter import Adapter
from models.loaded_model import LoadedModel


class ModelAdapters:
    """Reads adapters for the model, which has been told to have some, and puts them into its slots."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def read(self, path: str) -> Adapter:
        return read_adapter(Path(path), self._model)

    def put(self, slot: int, adapter: Adapter) -> None:
        self._model.set_adapter(slot, adapter)
