"""MemoryBudget: the memory that on-demand models share, and the choice of models to unload for another."""

from collections.abc import Collection, Mapping, Set

from server.errors import ModelNotLoaded
from server.served.loadable_model import LoadableModel, ModelState

_OCCUPYING = frozenset({ModelState.LOADING, ModelState.LOADED, ModelState.UNLOADING})


class MemoryBudget:
    """The memory limits of models that are loaded on demand, one of each device. Reads the models' states, but changes
    none. A model takes memory of its own device only."""

    def __init__(self, models: Collection[LoadableModel], limits: Mapping[str, float]) -> None:
        """limits: bytes by device, of all devices that models run on."""
        self._models = models
        self.limits = limits

    def used_bytes(self, device: str) -> int:
        """Return the bytes that models take on a device."""
        return sum(each.need_bytes for each in self._models if each.state in _OCCUPYING and each.device == device)

    def free_bytes(self, device: str) -> float:
        return self.limits[device] - self.used_bytes(device)

    def fits(self, model: LoadableModel) -> bool:
        """Whether the model can be loaded now."""
        return model.need_bytes <= self.free_bytes(model.device)

    def obtainable_bytes(self, model: LoadableModel) -> float:
        """Return the memory that the model can have if all other models except the pinned ones are unloaded."""
        return self.limits[model.device] - sum(each.need_bytes for each in self._other_pinned(model))

    def refusal(self, model: LoadableModel) -> ModelNotLoaded:
        """Return the error for a model that does not fit even if all models that may be unloaded are unloaded."""
        has_others = bool(self._other_pinned(model))  # their names may be hidden from the caller
        where = "beside the models that stay loaded" if has_others else "into the memory of this server"
        return ModelNotLoaded(f"the model does not fit {where}; try again later", retry_after_s=model.retry_after_s)

    def models_to_unload(
        self, model: LoadableModel, draining: Set[str], now_s: float, *, is_batch: bool
    ) -> list[LoadableModel] | None:
        """Return the models to unload so that this one fits, counting the memory of unloading models as free.

        draining: names of the models to prefer among models in use. is_batch: spare models that clients use or have
        just used, and return None if unloading all other models does not free enough.
        """
        lacking = model.need_bytes - self.free_bytes(model.device)
        lacking -= sum(each.need_bytes for each in self._with_state(ModelState.UNLOADING, model.device))
        candidates = [each for each in self._with_state(ModelState.LOADED, model.device) if not each.is_pinned]
        if is_batch:
            candidates = [each for each in candidates if each.protected_until_s <= now_s]
            if lacking > sum(each.need_bytes for each in candidates):
                return None
        candidates.sort(key=lambda each: (each.num_users > 0, each.name not in draining, each.used_s))
        chosen = []
        for candidate in candidates:
            if lacking <= 0:
                break
            chosen.append(candidate)
            lacking -= candidate.need_bytes
        return chosen

    def _other_pinned(self, model: LoadableModel) -> list[LoadableModel]:
        others = (each for each in self._models if each is not model and each.device == model.device)
        return [each for each in others if each.is_pinned and each.state in _OCCUPYING]

    def _with_state(self, state: ModelState, device: str) -> list[LoadableModel]:
        return [each for each in self._models if each.state is state and each.device == device]
