"""Jobs of the threads that read and prepare adapters, and their results."""

from dataclasses import dataclass
from typing import Generic

from engine.adapters.source import A, P
from engine.protocol import AdapterRef


@dataclass(frozen=True, slots=True)
class LoadJob:
    """A request of an operator to read and check an adapter. number: also of the answer."""

    number: int
    path: str


@dataclass(frozen=True, slots=True)
class PreparationJob(Generic[A]):
    """The preparation of an adapter for a slot. adapter: None if it must be read again; its digest must then be the one
    of `ref`."""

    slot: int
    ref: AdapterRef
    adapter: A | None
    began_s: float  # time.perf_counter()


@dataclass(frozen=True, slots=True)
class LoadResult(Generic[A]):
    """The adapter that was read, or the reason why there is none."""

    job: LoadJob
    adapter: A | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class PreparationResult(Generic[A, P]):
    """The adapter and its prepared form, or the reason why there are none."""

    job: PreparationJob[A]
    adapter: A | None
    prepared: P | None
    error: str = ""
