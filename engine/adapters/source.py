"""AdapterSource: reads adapters, and puts them into slots."""

from typing import Protocol, TypeVar


class ReadAdapter(Protocol):
    """An adapter in memory, as the engine sees it."""

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
    """The model's side of adapters. `read` and `prepare` are called by threads of their own while steps run; `put` and
    `empty` between steps, when no row of the last or the next step has the slot. These must be fast: streams pause."""

    def read(self, path: str) -> A:
        """Read an adapter. Raises ModelError if it is not an adapter of the model."""

    def prepare(self, adapter: A) -> P: ...

    def put(self, slot: int, prepared: P) -> None: ...

    def empty(self, slot: int) -> None:
        """Free the slot's memory."""
