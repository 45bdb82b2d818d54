"""stop_fleet, with a stand-in for Ray Serve."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from engine.errors import OptionError
from server.commands.fleet.cluster import APPLICATION, stop_fleet

pytestmark = pytest.mark.fast


class Serve:
    """Ray Serve with a fleet that has ended at the `num_calls`-th call of `delete`, which waits for it until then."""

    def __init__(self, num_calls: int) -> None:
        self.num_left = num_calls

    def status(self) -> SimpleNamespace:
        state = SimpleNamespace(status=SimpleNamespace(value="RUNNING"), deployments={}, message="")
        return SimpleNamespace(applications={APPLICATION: state} if self.num_left else {})

    def delete(self, name: str) -> None:
        assert name == APPLICATION
        self.num_left -= 1
        if self.num_left:
            raise TimeoutError("not deleted after 60s")


def use(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ModuleType("ray")
    ray.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)


def test_a_fleet_that_ends_later_than_ray_waits_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = Serve(num_calls=3)
    use(serve, monkeypatch)
    stop_fleet()
    assert serve.num_left == 0


def test_no_fleet_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Serve(num_calls=0), monkeypatch)
    with pytest.raises(OptionError, match="no fleet runs in this cluster; give the --address of another"):
        stop_fleet()
