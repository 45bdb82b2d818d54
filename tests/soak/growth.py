"""Whether a process grows, in memory and threads, from samples of its life; or that its life was too short to tell."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.soak.samples import MIB, Sample, growth_mib_per_minute, settled

# The memory of a young process grows without a leak: pages of the KV cache are first written as prefixes are cached,
# caches of grammars and texts fill, code is loaded. In a life of this length, that is over by its later half.
LEAST_LIFE_S = 20 * 60.0
_MAX_MIB_PER_MINUTE = 1.0
_MAX_MORE_THREADS = 4


@dataclass(frozen=True, slots=True)
class Growth:
    """What a process's samples say. `wrong`: what may not be; `unknown`: what its life was too short for."""

    wrong: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def growth_of(name: str, samples: Sequence[Sample]) -> Growth:
    """samples: of one process, in order."""
    life_s = samples[-1].at_s - samples[0].at_s
    later = settled(list(samples))
    wrong, unknown = [], []
    if later[-1].num_threads > later[0].num_threads + _MAX_MORE_THREADS:
        wrong.append(f"the {name} had {later[0].num_threads} threads, and has {later[-1].num_threads}")
    if life_s < LEAST_LIFE_S:
        unknown.append(
            f"whether the {name}'s memory stays flat: it ran for {life_s / 60:.1f} minutes, and its caches may fill "
            f"for {LEAST_LIFE_S / 120:.0f}; --minutes 45 is long enough"
        )
    elif (growth := growth_mib_per_minute(later)) > _MAX_MIB_PER_MINUTE:
        wrong.append(
            f"the {name} grows by {growth:.2f} MiB a minute in the later half of its {life_s / 60:.0f} minutes; "
            f"{_MAX_MIB_PER_MINUTE:.2f} is allowed"
        )
    return Growth(tuple(wrong), tuple(unknown))


def course(samples: Sequence[Sample], num_points: int = 6) -> str:
    """The memory at equal distances in time, such as "700, 721, 722 MiB"."""
    began_s, life_s = samples[0].at_s, samples[-1].at_s - samples[0].at_s
    times_s = [began_s + life_s * place / (num_points - 1) for place in range(num_points)]
    nearest = [min(samples, key=lambda sample: abs(sample.at_s - at_s)) for at_s in times_s]
    return ", ".join(f"{sample.rss_bytes / MIB:.0f}" for sample in nearest) + " MiB"
