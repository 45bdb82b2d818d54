"""AdapterSource: the interface by which the engine reads adapters and puts them into a model's slots."""

from typing import Protocol, TypeVar


class ReadAdapter(Protocol):
    """An adapter that has been read into memory: the properties that the engine uses."""

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
    """Interface to a model's adapters. `read` and `prepare` run on other threads while steps run. `put` and `empty` run
    between steps, when no row of the last or the next step uses the slot; they must be fast, since streams pause."""

    def read(self, path: str) -> A:
        """Read an adapter. Raises ModelError if it is not an adapter of the model."""

    def prepare(self, adapter: A) -> P: ...

    def put(self, slot: int, prepared: P) -> None: ...

    def empty(self, slot: int) -> None:
        """Free the slot's memory."""
