"""Publisher: registers the adapters of jobs with the served models, and withdraws them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.client.interface import EngineState
from engine.errors import AdapterUnusable, EngineStopped, EngineUnavailable, InvalidRequest
from server.finetuning.adapter_files import CONFIG_FILE
from server.finetuning.jobs.folders import checkpoint_folder, out_folder
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import with_adapters
from server.served.adapter import ServedAdapter
from server.served.model import ServedModel
from server.served.models import ServedModels
from server.store.database import Database

logger = logging.getLogger(__name__)

_AGAIN_S = 0.2


class Publisher:
    def __init__(
        self, models: ServedModels, data_dir: str, *, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    ) -> None:
        self._models = models
        self._data_dir = data_dir
        self._sleep = sleep

    async def publish(self, record: FinetuningRecord, step: int | None = None) -> str | None:
        """Start to serve the job's adapter, or its checkpoint at `step`; return the reason if that fails, else None.

        A model that is not loaded reads the adapter when it loads: a checkpoint is no reason to load a model, or to
        keep it loaded. Raises EngineStopped if the server is shutting down.
        """
        adapter = self._adapter(record, step)
        while True:
            try:
                model = self._models.base_model(record.base_model)
                info = await model.client.load_adapter(adapter.path) if model.is_loaded else None
                self._models.adapters.add(replace(adapter, info=info))
                return None
            except (InvalidRequest, AdapterUnusable) as error:
                return str(error)
            except EngineUnavailable as error:  # the model is being loaded, restarted or unloaded
                if isinstance(error, EngineStopped) and model.loader is None:
                    raise
                await self._sleep(_AGAIN_S)

    def withdraw(self, record: FinetuningRecord, step: int | None = None) -> None:
        """Stop serving the adapter, if it is served."""
        adapter = self._models.adapters.get(self._adapter(record, step).name)
        if adapter is not None:
            self._models.adapters.remove(adapter.name, self._models.get_or_default(adapter.base_name))

    async def announce_all(self, database: Database) -> None:
        """Register the adapters of all stored jobs at startup, before any model is loaded. Raises StorageFailed."""
        for record in await database.run(with_adapters):
            try:
                self._models.base_model(record.base_model)
            except InvalidRequest as error:
                logger.warning("adapters of fine-tuning job %s are not served: %s", record.id, error)
                continue
            steps: list[int | None] = [checkpoint.step for checkpoint in record.checkpoints]
            if record.has_adapter:
                steps.append(None)
            for step in steps:
                adapter = self._adapter(record, step)
                if (Path(adapter.path) / CONFIG_FILE).exists() and not self._models.is_model_name(adapter.name):
                    self._models.adapters.add(adapter)

    @property
    def unread(self) -> list[ServedAdapter]:
        """Registered adapters whose model is loaded but has not read them yet."""
        unread = (each for each in self._models.adapters if each.owner is not None and each.info is None)
        return [each for each in unread if self._can_read(self._models.get_or_default(each.base_name))]

    async def read_unread(self) -> None:
        """Load the unread adapters into their models before a request needs them. Unusable adapters are dropped."""
        for adapter in self.unread:
            model = self._models.get_or_default(adapter.base_name)
            if self._models.adapters.get(adapter.name) is adapter and self._can_read(model):
                with contextlib.suppress(EngineUnavailable):  # the adapter is tried again
                    await self._models.adapters.read_finetuned(adapter, model)

    @staticmethod
    def _can_read(model: ServedModel) -> bool:
        return model.is_loaded and model.client.status().state is EngineState.READY

    def _adapter(self, record: FinetuningRecord, step: int | None) -> ServedAdapter:
        name, folder = record.name, out_folder(self._data_dir, record.id)
        if step is not None:
            name, folder = record.checkpoint_name(step), checkpoint_folder(self._data_dir, record.id, step)
        return ServedAdapter(name, str(folder), self._models.canonical(record.base_model), owner=record.owner)
