"""TenantQueue: one tenant's waiting sequences in one service class, searchable by order and length."""

import itertools
from collections import abc

from engine.scheduling.fairness.service_queue import ServiceQueue
from engine.scheduling.sequence import Order, Sequence

_MAX_SCANNED = 64  # sequences of the length class that a limit cuts through; those behind are not seen


class TenantQueue:
    """One tenant's waiting sequences. They are in buckets by `num_to_compute`, in powers of two, each sorted by the
    order of service.

    So the next sequence up to a length limit is found without a scan of the queue. Sequences that cannot start yet,
    such as for lack of an adapter slot, are set aside.

    Invariant: a sequence is either in its length bucket or set aside.
    """

    def __init__(self) -> None:
        self._by_length: dict[int, ServiceQueue] = {}
        self._aside: set[Sequence] = set()
        self._num_in_line = 0
        self.num_counted = 0  # sequences of service classes that count in metrics

    def __len__(self) -> int:
        return self._num_in_line + len(self._aside)

    def __iter__(self) -> abc.Iterator[Sequence]:
        return itertools.chain(self._aside, *self._by_length.values())

    @property
    def is_in_line(self) -> bool:
        """Whether any of the tenant's sequences is in line, and not set aside."""
        return self._num_in_line > 0

    def is_aside(self, sequence: Sequence) -> bool:
        return sequence in self._aside

    def add(self, sequence: Sequence, *, is_aside: bool = False) -> None:
        if is_aside:
            self._aside.add(sequence)
        else:
            self._line_up(sequence)
        self.num_counted += sequence.service.is_counted

    def remove(self, sequence: Sequence) -> None:
        if sequence in self._aside:
            self._aside.remove(sequence)
        else:
            self._leave_line(sequence)
        self.num_counted -= sequence.service.is_counted

    def set_aside(self, sequence: Sequence) -> None:
        self._leave_line(sequence)
        self._aside.add(sequence)

    def put_back(self, sequence: Sequence) -> None:
        self._aside.remove(sequence)
        self._line_up(sequence)

    def correct_length(self, sequence: Sequence, num_to_compute: int) -> None:
        """Set a sequence's `num_to_compute`, moving it to the matching length bucket."""
        self._leave_line(sequence)
        sequence.num_to_compute = num_to_compute
        self._line_up(sequence)

    def next_after(self, order: Order | None = None, most: int | None = None) -> Sequence | None:
        """Return the next sequence in line, after the key `order` if given, with at most `most` tokens to compute."""
        first: Sequence | None = None
        for length_class, queue in self._by_length.items():
            if most is not None and 1 << length_class > 2 * most:
                continue  # all sequences of the class are longer
            behind = itertools.islice(queue.after(order), _MAX_SCANNED)
            each = next((each for each in behind if most is None or each.num_to_compute <= most), None)
            if each is not None and (first is None or each.order < first.order):
                first = each
        return first

    def _line_up(self, sequence: Sequence) -> None:
        length_class = sequence.num_to_compute.bit_length()
        if (queue := self._by_length.get(length_class)) is None:
            queue = self._by_length[length_class] = ServiceQueue()
        queue.add(sequence)
        self._num_in_line += 1

    def _leave_line(self, sequence: Sequence) -> None:
        length_class = sequence.num_to_compute.bit_length()
        queue = self._by_length[length_class]
        queue.remove(sequence)
        if not queue:
            del self._by_length[length_class]
        self._num_in_line -= 1

    def check(self) -> None:
        in_line = [(length_class, each) for length_class, queue in self._by_length.items() for each in queue]
        assert all(each.num_to_compute.bit_length() == length_class for length_class, each in in_line)
        assert len(in_line) == self._num_in_line
        assert self._aside.isdisjoint(each for _, each in in_line)
        assert self.num_counted == sum(each.service.is_counted for each in self)
