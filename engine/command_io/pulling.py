"""Messages of the process that fetches a model for a server. The server imports this: no torch here."""

import msgspec

from engine.command_io.findings import Finding


class PullMachine(msgspec.Struct, frozen=True, tag=True):
    """The free memory of the device that models run on, in bytes. The first message."""

    free_bytes: int


class PullProgress(msgspec.Struct, frozen=True, tag=True):
    """Progress of one stage. total: 0 if unknown. unit: "B" for bytes."""

    stage: str
    done: int
    total: int
    unit: str


class Pulled(msgspec.Struct, frozen=True, tag=True):
    """The result: a model whose files are complete and verified. path: its folder or first file. size_bytes: 0 if no
    file of the model has a known hash. memory: whether the model fits into memory."""

    path: str
    size_bytes: int
    memory: Finding


class PullRefused(msgspec.Struct, frozen=True, tag=True):
    """The reason why the model cannot be fetched, in place of a result."""

    message: str


PullMessage = PullMachine | PullProgress | Pulled | PullRefused
