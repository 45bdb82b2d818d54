"""A folder of adapters that are a line of text each, as an AdapterSource over a ledger."""

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
        self.is_put_refused = False
        self.runner: LedgerRunner | None = None

    def read(self, path: str) -> TextAdapter:
        self.num_reads += 1
        if path not in self.files:
            raise AdapterError(f"{path} has no adapter_config.json")
        text, _, rank = self.files[path].partition(":")
        return TextAdapter(text.encode(), int(rank or 8))

    def put(self, slot: int, adapter: TextAdapter) -> None:
        if self.is_put_refused:
            raise MemoryError
        self.slots[slot] = adapter.digest
        if self.runner is not None:
            self.runner.fill(slot, adapter.digest)

    def ref(self, path: str) -> AdapterRef:
        """To the contents that the file has now."""
        return AdapterRef(path, path, self.files[path].partition(":")[0].encode())


def adapter_service(
    folder: AdapterFolder, answers: list[Answer], *, max_on_host: int = 4, max_rank: int = 64
) -> AdapterService[TextAdapter]:
    return AdapterService(
        folder, max_rank=max_rank, max_on_host=max_on_host, on_done=lambda: None, on_answer=answers.append
    )
