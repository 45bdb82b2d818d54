"""TokenBucket: a rate limit that allows bursts. An amount can be held first, and settled when its real use is known.

The level rises by the rate, up to the capacity, which is one minute's amount, and falls by what is taken. The unused
part of a hold is given back as if it had not been taken. So of all that is taken within a minute, at most a full
bucket plus one minute's refill is really used, however long amounts are held.
"""

from collections.abc import Callable
from dataclasses import dataclass

_MINUTE_S = 60.0


@dataclass(eq=False, slots=True)
class Hold:
    """An amount that was taken from a bucket before its real use is known."""

    amount: float
    peak: float  # the highest level of the bucket since then


class TokenBucket:
    """A bucket that starts full and refills at a rate. For one event loop.

    Invariant: the level is at most the capacity. It is negative only after more was used than was held.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        """clock: monotonic time in seconds."""
        self.capacity = per_minute
        self._clock = clock
        self._level = per_minute
        self._updated_s = clock()
        self._held: set[Hold] = set()

    @property
    def level(self) -> float:
        """The amount that can be taken now."""
        self._advance()
        return self._level

    @property
    def full_in_s(self) -> float:
        """Seconds until the bucket is full, if nothing is taken."""
        return self.wait_s(self.capacity)

    def wait_s(self, amount: float) -> float:
        """Return the seconds until `amount`, which is at most the capacity, can be taken; 0 if it can be now."""
        return max(0.0, (amount - self.level) * _MINUTE_S / self.capacity)

    def take(self, amount: float) -> bool:
        """Take the amount if it is available, and return whether it was."""
        if self.level < amount:
            return False
        self._note_peaks()
        self._level -= amount
        return True

    def hold(self, amount: float) -> Hold | None:
        """Take an amount until `settle`; return None if it is not available."""
        if not self.take(amount):
            return None
        hold = Hold(amount, self._level)
        self._held.add(hold)
        return hold

    def __contains__(self, hold: Hold) -> bool:
        return hold in self._held

    def settle(self, hold: Hold, used: float) -> None:
        """Give back the unused part of a hold, or take what was used beyond it.

        Gives back at most the smallest gap between level and capacity since the hold: had less been taken, the bucket
        would have been full then, and could not have risen further.
        """
        self._advance()
        self._note_peaks()
        self._held.remove(hold)
        given_back = min(hold.amount - used, self.capacity - hold.peak)
        self._level += given_back
        for other in self._held:
            other.peak = min(self.capacity, other.peak + max(0.0, given_back))

    def change_rate(self, per_minute: float) -> None:
        """Change the rate. A higher rate raises the level by the difference; a lower one caps it at the new
        capacity."""
        self._advance()
        self._note_peaks()
        self._level = min(self._level + max(0.0, per_minute - self.capacity), per_minute)
        self.capacity = per_minute
        for held in self._held:
            held.peak = min(held.peak, per_minute)

    def _advance(self) -> None:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._updated_s) * self.capacity / _MINUTE_S)
        self._updated_s = now

    def _note_peaks(self) -> None:
        """Update each hold's highest level. Must be called before the level falls."""
        for held in self._held:
            held.peak = max(held.peak, self._level)

    def check(self) -> None:
        """Assert the invariants."""
        assert self._level <= self.capacity + 1e-6 * self.capacity
        assert all(held.peak <= self.capacity for held in self._held)
