"""What is to be done with an adapter beside the engine's steps, and what became of it."""

from dataclasses import dataclass
from typing import Generic

from engine.adapters.source import A, P
from engine.protocol import AdapterRef


@dataclass(frozen=True, slots=True)
class Load:
    """An operator asks whether it is an adapter of the model. number: that the answer has too."""

    number: int
    path: str


@dataclass(frozen=True, slots=True)
class Preparation(Generic[A]):
    """A slot waits for it. adapter: None if it must be read again; it must then have the digest of `ref`."""

    slot: int
    ref: AdapterRef
    adapter: A | None
    began_s: float  # time.perf_counter()


@dataclass(frozen=True, slots=True)
class Loaded(Generic[A]):
    """Either the adapter, or why there is none."""

    job: Load
    adapter: A | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Prepared(Generic[A, P]):
    """Either both, or why there are none."""

    job: Preparation[A]
    adapter: A | None
    prepared: P | None
    error: str = ""
