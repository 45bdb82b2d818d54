import pytest

from tests.soak.growth import LEAST_LIFE_S, course, growth_of
from tests.soak.samples import MIB, Sample

pytestmark = pytest.mark.fast


def _samples(minutes: float, slopes: list[tuple[float, float]], *, threads: tuple[int, int] = (8, 8)) -> list[Sample]:
    """A sample every ten seconds. slopes: minutes from which the memory grows by so many MiB a minute. threads: in the
    first sample of the later half, and in the last one."""
    ends = [*(begin for begin, _ in slopes[1:]), minutes]
    samples = []
    for number in range(int(minutes * 6) + 1):
        minute = number / 6
        grown = zip(slopes, ends, strict=True)
        mib = 700.0 + sum(slope * max(0.0, min(minute, end) - begin) for (begin, slope), end in grown)
        num_threads = threads[number == int(minutes * 6)]
        samples.append(Sample(1, minute * 60, int(mib * MIB), 16, num_threads))
    return samples


def test_caches_that_fill_in_the_first_half_are_no_growth() -> None:
    assert growth_of("engine", _samples(30, [(0, 20), (12, 0)])).wrong == ()


def test_a_leak_that_goes_on_is_told() -> None:
    (line,) = growth_of("engine", _samples(30, [(0, 20), (12, 1.5)])).wrong
    assert line == "the engine grows by 1.50 MiB a minute in the later half of its 30 minutes; 1.00 is allowed"


def test_a_short_life_says_neither() -> None:
    growth = growth_of("engine", _samples(4, [(0, 11.3)]))
    assert growth.wrong == ()
    (line,) = growth.unknown
    assert line.startswith("whether the engine's memory stays flat: it ran for 4.0 minutes")


def test_a_long_life_leaves_nothing_unknown() -> None:
    assert growth_of("engine", _samples(LEAST_LIFE_S / 60 + 1, [(0, 0)])).unknown == ()


@pytest.mark.parametrize("minutes", [4, 30])
def test_threads_that_pile_up_are_told_of_any_life(minutes: float) -> None:
    (line,) = growth_of("server", _samples(minutes, [(0, 0)], threads=(8, 20))).wrong
    assert line == "the server had 8 threads, and has 20"


def test_the_course_has_the_memory_at_equal_distances() -> None:
    assert course(_samples(20, [(0, 2), (10, 0)]), 5) == "700, 710, 720, 720, 720 MiB"
