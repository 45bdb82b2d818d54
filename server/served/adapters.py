"""ServedAdapters: the served LoRA adapters, by name; adds, reads, replaces and removes them."""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from engine.errors import AdapterUnusable, InvalidRequest, StartupError
from engine.protocol import AdapterInfo
from server.errors import ModelNotFound
from server.schemas.base import quote
from server.served.adapter import ServedAdapter
from server.served.model import ServedModel

logger = logging.getLogger(__name__)


class ServedAdapters:
    """All served adapters, one version per name. Running requests keep their adapter's version when it is replaced."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServedAdapter] = {}
        self._base_names: dict[str, str] = {}  # by the name of each adapter that has been served
        self._loading: set[str] = set()  # names
        self._reads: dict[ServedAdapter, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[ServedAdapter]:
        return iter(self._by_name.values())

    def get(self, name: str) -> ServedAdapter | None:
        return self._by_name.get(name)

    def current(self, name: str) -> ServedAdapter:
        """Return the served version of the adapter. Raises ModelNotFound."""
        if (adapter := self._by_name.get(name)) is None:
            raise ModelNotFound(f"The lora adapter {quote(name)} cannot be found.")
        return adapter

    def add(self, adapter: ServedAdapter) -> None:
        """Serve the adapter from now on. Without `info`, its files are read when its model is loaded or used."""
        self._by_name[adapter.name] = adapter
        self._base_names[adapter.name] = adapter.base_name
        if adapter.info is not None:
            _log(adapter, adapter.info)

    def base_name(self, name: str) -> str:
        """Return the base model's name if `name` is or was an adapter, else `name` itself."""
        return self._base_names.get(name, name)

    async def read_all(self, model: ServedModel) -> None:
        """Make the loaded model's engine read the model's unread adapters. Raises StartupError if one cannot be served.
        Fine-tuned adapters, which may be many, are left to `read_finetuned`."""
        for adapter in [each for each in self if each.base_name == model.name and each.info is None]:
            if adapter.owner is None:
                try:
                    await self._read(adapter, model)
                except AdapterUnusable as error:
                    raise StartupError(f"the LoRA adapter {adapter.name!r} cannot be served: {error}") from error

    async def read_finetuned(self, adapter: ServedAdapter, model: ServedModel) -> None:
        """Make the engine read a fine-tuned adapter; stop serving it if it is unusable. Raises EngineUnavailable if the
        engine is not ready or ends."""
        try:
            await self._read(adapter, model)
        except AdapterUnusable as error:
            logger.warning("the LoRA adapter %r cannot be served: %s", adapter.name, error)
            if self._by_name.get(adapter.name) is adapter:
                del self._by_name[adapter.name]

    async def read(self, name: str, model: ServedModel) -> None:
        """Make the loaded model's engine read the adapter, if `read_all` has not done so yet.

        Raises ModelNotFound, InvalidRequest if the adapter cannot be served, and EngineUnavailable if the engine is not
        ready or ends.
        """
        adapter = self.current(name)
        if adapter.info is None:
            try:
                await self._read(adapter, model)
            except AdapterUnusable as error:
                raise InvalidRequest(f"the adapter {quote(name)} cannot be served: {error}", param="model") from error

    async def _read(self, adapter: ServedAdapter, model: ServedModel) -> None:
        """Make the engine read the adapter, or wait for a read in progress. Raises AdapterUnusable if the engine cannot
        serve it, and EngineUnavailable if the engine is not ready or ends."""
        task = self._reads.get(adapter)
        if task is None:
            task = self._reads[adapter] = asyncio.create_task(self._read_once(adapter, model), name="read-adapter")
            task.add_done_callback(partial(self._has_read, adapter))
        await asyncio.shield(task)

    def _has_read(self, adapter: ServedAdapter, task: asyncio.Task[None]) -> None:
        del self._reads[adapter]
        if not task.cancelled():
            task.exception()  # marks it as retrieved: those who wait get it from the task

    async def _read_once(self, adapter: ServedAdapter, model: ServedModel) -> None:
        info = await model.client.load_adapter(adapter.path)
        if self._by_name.get(adapter.name) is adapter:
            self._by_name[adapter.name] = replace(adapter, info=info)
            _log(adapter, info)

    async def load(self, name: str, path: str, model: ServedModel, *, in_place: bool) -> ServedAdapter:
        """Read the adapter at `path` and serve it under the name, replacing an adapter with that name if `in_place`.

        Raises InvalidRequest if the name is taken and not `in_place`, or the files are not an adapter of the model;
        QueueFull, ModelNotLoaded or EngineUnavailable if the model cannot be loaded or its engine ends.
        """
        if name in self._loading:
            raise InvalidRequest(f"the adapter {quote(name)} is being loaded by another request", param="lora_name")
        if name in self._by_name and not in_place:
            raise InvalidRequest(
                f"The lora adapter {quote(name)} has already been loaded. If you want to load the adapter in place, "
                "set 'load_inplace' to True.",
                param="lora_name",
            )
        self._loading.add(name)
        try:
            async with model.in_use():
                info = await model.client.load_adapter(path)
        except AdapterUnusable as error:
            raise InvalidRequest(str(error), param="lora_path") from error
        finally:
            self._loading.discard(name)
        before = self._by_name.get(name)
        adapter = ServedAdapter(name, path, model.name, info)
        self.add(adapter)
        if before is not None and before.base_name == model.name:
            self._forget(before, model)
        return adapter

    def remove(self, name: str, model: ServedModel) -> None:
        """Stop serving the model's adapter. Raises ModelNotFound."""
        adapter = self.current(name)
        del self._by_name[name]
        self._forget(adapter, model)
        logger.info("the adapter %s is no longer served", name)

    def _forget(self, adapter: ServedAdapter, model: ServedModel) -> None:
        """Make the engine drop this adapter version, unless another adapter of the model has the same contents."""
        if adapter.info is None:
            return
        digest = adapter.info.digest
        same = (each for each in self if each.base_name == adapter.base_name and each.info is not None)
        if not any(each.info is not None and each.info.digest == digest for each in same):
            model.client.forget_adapter(digest)


def _log(adapter: ServedAdapter, info: AdapterInfo) -> None:
    size = info.num_bytes >> 10
    logger.info("the adapter %s of %s is served: rank %d, %d KiB", adapter.name, adapter.base_name, info.rank, size)
