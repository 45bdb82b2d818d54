"""stop_fleet, with a stand-in for Ray Serve."""

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace

import pytest

from engine.errors import OptionError
from server.commands.fleet.cluster import APPLICATION, fleet_state, stop_fleet

pytestmark = pytest.mark.fast


class ActorDiedError(Exception):
    """Ray's error for a call of an actor that ends meanwhile."""


class Serve:
    """Ray Serve with a fleet that has ended at the `num_calls`-th call of `delete`, which waits for it until then."""

    def __init__(self, num_calls: int, others: Sequence[str] = ()) -> None:
        self.num_left = num_calls
        self.others = others
        self.has_front = True

    def status(self) -> SimpleNamespace:
        state = SimpleNamespace(status=SimpleNamespace(value="RUNNING"), deployments={}, message="")
        names = [*([APPLICATION] if self.num_left else []), *self.others]
        return SimpleNamespace(applications=dict.fromkeys(names, state))

    def delete(self, name: str) -> None:
        assert name == APPLICATION
        self.num_left -= 1
        if self.num_left:
            raise TimeoutError("not deleted after 60s")

    def shutdown(self) -> None:
        self.has_front = False


def use(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ModuleType("ray")
    ray.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    exceptions = ModuleType("ray.exceptions")
    exceptions.ActorDiedError = ActorDiedError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)


def test_a_fleet_that_ends_later_than_ray_waits_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(num_calls=3)
    use(serve, monkeypatch)
    stop_fleet()
    assert serve.num_left == 0
    assert not serve.has_front


def test_a_front_that_serves_another_application_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(num_calls=1, others=["other"])
    use(serve, monkeypatch)
    stop_fleet()
    assert serve.has_front


def test_no_fleet_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Serve(num_calls=0), monkeypatch)
    with pytest.raises(OptionError, match="no fleet runs in this cluster; give the --address of another"):
        stop_fleet()


def test_a_fleet_whose_front_ends_now_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(num_calls=1)
    use(serve, monkeypatch)
    assert fleet_state() is not None

    def status() -> SimpleNamespace:
        raise ActorDiedError

    monkeypatch.setattr(serve, "status", status)
    assert fleet_state() is None
