"""A LoadingPolicy whose clock and loads a test controls."""

from collections import Counter

from server.served.loadable_model import LoadableModel, ModelState, Waiter
from server.served.loading_policy import LoadingPolicy
from server.served.pending_requests import OperatorRequest


class FakeLoader:
    """Notes what was started; the test reports its end."""

    def __init__(self) -> None:
        self.loading: set[str] = set()
        self.unloading: set[str] = set()
        self.num_loads: Counter[str] = Counter()

    def start_load(self, name: str) -> None:
        self.loading.add(name)
        self.num_loads[name] += 1

    def start_unload(self, name: str) -> None:
        self.unloading.add(name)


class PolicyServer:
    """A policy with a clock and a loader of the test's own."""

    def __init__(self, limit_bytes: int | dict[str, float], *models: LoadableModel) -> None:
        """limit_bytes: of the host, or of each device."""
        self.loader = FakeLoader()
        self.now_s = 1000.0
        limits = limit_bytes if isinstance(limit_bytes, dict) else {"cpu": limit_bytes}
        self.policy = LoadingPolicy(models, limits, self.loader, now=lambda: self.now_s)

    def acquire(self, name: str) -> Waiter:
        return self.policy.acquire(name, lambda: None)

    def request_load(self, name: str) -> OperatorRequest:
        return self.policy.request_load(name, lambda: None)

    def request_unload(self, name: str) -> OperatorRequest:
        return self.policy.request_unload(name, lambda: None)

    def loaded(self, name: str, need_bytes: int | None = None) -> None:
        self.loader.loading.remove(name)
        self.policy.on_loaded(name, need_bytes)

    def unloaded(self, name: str) -> None:
        self.loader.unloading.remove(name)
        self.policy.on_unloaded(name)

    def state(self, name: str) -> ModelState:
        return self.policy[name].state

    def serve(self, name: str) -> None:
        """Load the model for a request, and end the request."""
        waiter = self.acquire(name)
        if not waiter.is_admitted:
            self.loaded(name)
        assert waiter.is_admitted
        self.policy.release(name)
        self.now_s += 1


def loadable(name: str, need_bytes: int = 6, **options: object) -> LoadableModel:
    return LoadableModel(name, need_bytes, 3, **options)  # type: ignore[arg-type]


def three(limit_bytes: int = 12) -> PolicyServer:
    return PolicyServer(limit_bytes, *map(loadable, "abc"))
