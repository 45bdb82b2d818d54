"""AdapterSource: where adapters are read from, and the slots that they are put into."""

from typing import Protocol, TypeVar


class ReadAdapter(Protocol):
    """What the engine has to know of an adapter in memory."""

    @property
    def digest(self) -> bytes: ...

    @property
    def rank(self) -> int: ...

    @property
    def num_bytes(self) -> int: ...

    @property
    def base_model(self) -> str: ...


A = TypeVar("A", bound=ReadAdapter)
P = TypeVar("P")  # a prepared adapter, in the form that a slot takes


class AdapterSource(Protocol[A, P]):
    """`read` and `prepare` are called by threads of their own, while steps run; `put` and `empty` between steps, when
    no row of the last or the next step is in the slot. These take no time worth mentioning: streams pause for it."""

    def read(self, path: str) -> A:
        """Raises ModelError if it is not an adapter of the model."""

    def prepare(self, adapter: A) -> P: ...

    def put(self, slot: int, prepared: P) -> None: ...

    def empty(self, slot: int) -> None:
        """Give the slot's memory back."""
