"""A residency whose clock and loads a test moves."""

from collections import Counter

from server.served.loadable_model import ModelState, Resident, Waiter
from server.served.loading_policy import Residency
from server.served.pending_requests import Wish


class Loader:
    """Notes what was begun; the test says when it ends."""

    def __init__(self) -> None:
        self.loading: set[str] = set()
        self.unloading: set[str] = set()
        self.num_loads: Counter[str] = Counter()

    def load(self, name: str) -> None:
        self.loading.add(name)
        self.num_loads[name] += 1

    def unload(self, name: str) -> None:
        self.unloading.add(name)


class ResidencyServer:
    """A residency with a clock and a loader of the test's own."""

    def __init__(self, limit_bytes: int, *residents: Resident) -> None:
        self.loader = Loader()
        self.now_s = 1000.0
        self.residency = Residency(residents, limit_bytes, self.loader, now=lambda: self.now_s)

    def enter(self, name: str) -> Waiter:
        return self.residency.enter(name, lambda: None)

    def want(self, name: str) -> Wish:
        return self.residency.want(name, lambda: None)

    def dismiss(self, name: str) -> Wish:
        return self.residency.dismiss(name, lambda: None)

    def loaded(self, name: str, need_bytes: int | None = None) -> None:
        self.loader.loading.remove(name)
        self.residency.loaded(name, need_bytes)

    def unloaded(self, name: str) -> None:
        self.loader.unloading.remove(name)
        self.residency.unloaded(name)

    def state(self, name: str) -> ModelState:
        return self.residency[name].state

    def serve(self, name: str) -> None:
        """Have the model loaded, and a request of it done."""
        waiter = self.enter(name)
        if not waiter.is_admitted:
            self.loaded(name)
        assert waiter.is_admitted
        self.residency.leave(name)
        self.now_s += 1


def resident(name: str, need_bytes: int = 6, **options: object) -> Resident:
    return Resident(name, need_bytes, 3, **options)  # type: ignore[arg-type]


def three(limit_bytes: int = 12) -> ResidencyServer:
    return ResidencyServer(limit_bytes, *map(resident, "abc"))
