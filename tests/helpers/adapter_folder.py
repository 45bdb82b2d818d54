"""A folder of adapters that are a line of text each, as an AdapterSource over a ledger."""

import threading
from dataclasses import dataclass

from engine.adapters.service import AdapterService, Answer
from engine.protocol import AdapterRef
from models.errors import AdapterError
from tests.helpers.ledger import LedgerRunner


@dataclass(frozen=True)
class TextAdapter:
    digest: bytes
    rank: int = 8
    num_bytes: int = 100
    base_model: str = ""


class AdapterFolder:
    """`files`: by path; the text of one is its digest, and its rank follows a colon."""

    def __init__(self, **files: str) -> None:
        self.files = files
        self.num_reads = 0
        self.slots: dict[int, bytes] = {}
        self.is_memory_short = False
        self.may_read, self.may_prepare = threading.Event(), threading.Event()  # set unless a test clears them
        self.may_read.set()
        self.may_prepare.set()
        self.is_preparing = threading.Event()  # set when a preparation has begun
        self.runner: LedgerRunner | None = None

    def read(self, path: str) -> TextAdapter:
        assert self.may_read.wait(60)
        self.num_reads += 1
        if path not in self.files:
            raise AdapterError(f"{path} has no adapter_config.json")
        text, _, rank = self.files[path].partition(":")
        return TextAdapter(text.encode(), int(rank or 8))

    def prepare(self, adapter: TextAdapter) -> bytes:
        self.is_preparing.set()
        assert self.may_prepare.wait(60)
        if self.is_memory_short:
            raise MemoryError
        return adapter.digest

    def put(self, slot: int, prepared: bytes) -> None:
        self.slots[slot] = prepared
        if self.runner is not None:
            self.runner.fill(slot, prepared)

    def empty(self, slot: int) -> None:
        self.slots.pop(slot, None)
        if self.runner is not None:
            self.runner.empty(slot)

    def ref(self, path: str) -> AdapterRef:
        """To the contents that the file has now."""
        return AdapterRef(path, path, self.files[path].partition(":")[0].encode())


def adapter_service(
    folder: AdapterFolder, answers: list[Answer], *, max_on_host: int = 4, max_rank: int = 64
) -> AdapterService[TextAdapter, bytes]:
    return AdapterService(
        folder, max_rank=max_rank, max_on_host=max_on_host, on_done=lambda: None, on_answer=answers.append
    )
