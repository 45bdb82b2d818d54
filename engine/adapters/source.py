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


class AdapterSource(Protocol[A]):
    def read(self, path: str) -> A:
        """Called by a thread of its own. Raises ModelError if it is no adapter of the model."""

    def put(self, slot: int, adapter: A) -> None:
        """Called between steps. No row of the last or the next step is in the slot."""
