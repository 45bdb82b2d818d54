"""TokenBucket: a rate limit with a burst. Amounts can be held before it is known how much will be used.

The level rises by the rate, up to the capacity, which is one minute's amount, and falls by what is taken. An amount
that was held and not used is given back as if it had not been taken. So of all that is taken in a minute, at most the
capacity and the minute's own amount is used, however long amounts were held.
"""

from collections.abc import Callable
from dataclasses import dataclass

_MINUTE_S = 60.0


@dataclass(eq=False, slots=True)
class Hold:
    """An amount that was taken before it is known how much of it is used."""

    amount: float
    peak: float  # the highest level since it was taken


class TokenBucket:
    """A bucket that starts full and refills at a rate. For one event loop.

    Invariant: the level is at most the capacity. It is below 0 only by use beyond what was held.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        """clock: seconds, never going back."""
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
        """Take the amount for good if it is available, and return whether it is."""
        if self.level < amount:
            return False
        self._note_peaks()
        self._level -= amount
        return True

    def hold(self, amount: float) -> Hold | None:
        """Take an amount, which must be settled later; return None if it is not available."""
        if not self.take(amount):
            return None
        hold = Hold(amount, self._level)
        self._held.add(hold)
        return hold

    def __contains__(self, hold: Hold) -> bool:
        return hold in self._held

    def settle(self, hold: Hold, used: float) -> None:
        """Give back the unused part of a hold, or take what was used beyond it.

        At most the smallest gap between the level and the capacity since the hold is given back. If that much less had
        been taken, the level would have been higher by it ever since, and never above the capacity.
        """
        self._advance()
        self._note_peaks()
        self._held.remove(hold)
        given_back = min(hold.amount - used, self.capacity - hold.peak)
        self._level += given_back
        for other in self._held:
            other.peak = min(self.capacity, other.peak + max(0.0, given_back))

    def change_rate(self, per_minute: float) -> None:
        """Set another rate. A higher one adds the difference to the level, a lower one cuts the level to the new
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
        """Update the peaks of all holds. Must be called before the level falls."""
        for held in self._held:
            held.peak = max(held.peak, self._level)

    def check(self) -> None:
        """Assert the invariants."""
        assert self._level <= self.capacity + 1e-6 * self.capacity
        assert all(held.peak <= self.capacity for held in self._held)
