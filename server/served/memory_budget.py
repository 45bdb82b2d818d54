"""Room: the memory that models share, what one of them may have, and which others are unloaded for it."""

from collections.abc import Collection, Set

from server.errors import ModelNotLoaded
from server.served.loadable_model import ModelState, Resident

_OCCUPYING = frozenset({ModelState.LOADING, ModelState.LOADED, ModelState.UNLOADING})


class Room:
    """Reads models' states, and changes none."""

    def __init__(self, residents: Collection[Resident], limit_bytes: float) -> None:
        self._residents = residents
        self.limit_bytes = limit_bytes

    @property
    def used_bytes(self) -> int:
        return sum(each.need_bytes for each in self._residents if each.state in _OCCUPYING)

    @property
    def free_bytes(self) -> float:
        return self.limit_bytes - self.used_bytes

    def obtainable_bytes(self, resident: Resident) -> float:
        """What the model may have when all that can be unloaded is."""
        return self.limit_bytes - sum(each.need_bytes for each in self._pinned_beside(resident))

    def refusal(self, resident: Resident) -> ModelNotLoaded:
        """For a model that needs more than is obtainable."""
        is_beside = bool(self._pinned_beside(resident))  # whose names may be none of the caller's business
        where = "beside the models that stay loaded" if is_beside else "into the memory of this server"
        return ModelNotLoaded(
            f"the model does not fit {where}; try again later",
            retry_after_s=resident.retry_after_s,
        )

    def victims(
        self, resident: Resident, closed_before: Set[str], now_s: float, *, is_batch: bool
    ) -> list[Resident] | None:
        """Models to unload so that this one fits beside what is left when those are gone that are being unloaded.

        closed_before: names of models that come first among those with requests. is_batch: spare models that clients
        use, or have just used; None if the others are not enough.
        """
        lacking = resident.need_bytes - self.free_bytes
        lacking -= sum(each.need_bytes for each in self._with_state(ModelState.UNLOADING))
        candidates = [each for each in self._with_state(ModelState.LOADED) if not each.is_pinned]
        if is_batch:
            candidates = [each for each in candidates if each.spared_until_s <= now_s]
            if lacking > sum(each.need_bytes for each in candidates):
                return None
        candidates.sort(key=lambda each: (each.num_users > 0, each.name not in closed_before, each.used_s))
        victims = []
        for candidate in candidates:
            if lacking <= 0:
                break
            victims.append(candidate)
            lacking -= candidate.need_bytes
        return victims

    def _pinned_beside(self, resident: Resident) -> list[Resident]:
        others = (each for each in self._residents if each is not resident)
        return [each for each in others if each.is_pinned and each.state in _OCCUPYING]

    def _with_state(self, state: ModelState) -> list[Resident]:
        return [each for each in self._residents if each.state is state]
