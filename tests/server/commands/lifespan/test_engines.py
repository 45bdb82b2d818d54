"""StartupTimes: phases follow one another without gaps."""

import pytest

from engine.protocol import Loading
from server.commands.lifespan.engines import StartupTimes

pytestmark = pytest.mark.fast


def test_each_phase_ends_where_the_next_begins() -> None:
    phases: dict[str, float] = {}
    times = StartupTimes(10.0, phases.__setitem__)
    times.show(Loading("import libraries", 0, 0, "", 11.0))
    times.show(Loading("load weights", 0, 9, "B", 12.5))
    times.show(Loading("load weights", 9, 9, "B", 13.0))
    times.begin("prepare text", 15.5)
    times.end(16.0)
    assert phases == {"start processes": 1.0, "import libraries": 1.5, "load weights": 3.0, "prepare text": 0.5}
