"""TokenBucket: a rate with a burst, for which amounts can be taken before it is known how much will be used.

The level rises by the rate, up to the capacity, which is what a minute brings, and falls by what is taken. What was
held and not used is given back as if it had not been taken: so of what is taken in any minute, at most the capacity and
what the minute brings is used, however long it was held.
"""

from collections.abc import Callable

_MINUTE_S = 60.0


class Held:
    """An amount taken, of which it is yet to be seen how much is used."""

    __slots__ = ("amount", "peak")

    def __init__(self, amount: float, peak: float) -> None:
        self.amount = amount
        self.peak = peak  # the highest level since


class TokenBucket:
    """Full at first. For one event loop.

    Invariant: the level is at most the capacity; below 0 it is by what was used beyond what was held.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        """clock: seconds, never going back."""
        self.capacity = per_minute
        self._clock = clock
        self._level = per_minute
        self._looked_s = clock()
        self._held: set[Held] = set()

    @property
    def level(self) -> float:
        """What could be taken now."""
        self._advance()
        return self._level

    @property
    def full_in_s(self) -> float:
        """Seconds until the level is the capacity, if nothing is taken."""
        return self.wait_s(self.capacity)

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` could be taken; 0 if it could be now. It must be at most the capacity."""
        return max(0.0, (amount - self.level) * _MINUTE_S / self.capacity)

    def take(self, amount: float) -> bool:
        """Whether the amount was there, and is taken for good."""
        if self.level < amount:
            return False
        self._note_peaks()
        self._level -= amount
        return True

    def hold(self, amount: float) -> Held | None:
        """Take an amount that is to be settled; None if it is not there."""
        if not self.take(amount):
            return None
        held = Held(amount, self._level)
        self._held.add(held)
        return held

    def __contains__(self, held: Held) -> bool:
        return held in self._held

    def settle(self, held: Held, used: float) -> None:
        """Give back what was not used, or take what was used beyond it.

        No more is given back than lay between the level's peak and the capacity all the while: had so much less been
        taken, the level would have been higher by it from then on, and never above the capacity.
        """
        self._advance()
        self._note_peaks()
        self._held.remove(held)
        given_back = min(held.amount - used, self.capacity - held.peak)
        self._level += given_back
        for other in self._held:
            other.peak = min(self.capacity, other.peak + max(0.0, given_back))

    def change_rate(self, per_minute: float) -> None:
        """What is there stays, as far as it fits the new capacity, and grows by what that is larger."""
        self._advance()
        self._note_peaks()
        self._level = min(self._level + max(0.0, per_minute - self.capacity), per_minute)
        self.capacity = per_minute
        for held in self._held:
            held.peak = min(held.peak, per_minute)

    def _advance(self) -> None:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._looked_s) * self.capacity / _MINUTE_S)
        self._looked_s = now

    def _note_peaks(self) -> None:
        """Called before the level falls, or may: until then it only rises."""
        for held in self._held:
            held.peak = max(held.peak, self._level)

    def check(self) -> None:
        """Assert the invariants."""
        assert self._level <= self.capacity + 1e-6 * self.capacity
        assert all(held.peak <= self.capacity for held in self._held)
