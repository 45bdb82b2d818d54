"""ModelAdapters: what is computed beside the steps is computed by one thread."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.adapters import model_source
from engine.adapters.model_source import ModelAdapters
from models.kernels.cpu.library import computing_alone, kernel_library


def _is_alone() -> tuple[int, bool | None]:
    """torch's threads, and whether the native kernels have this thread alone; None without them."""
    library = kernel_library()
    if library is None:
        return torch.get_num_threads(), None
    was_alone = bool(library.compute_alone(False))
    library.compute_alone(was_alone)
    return torch.get_num_threads(), was_alone


@pytest.fixture
def two_threads() -> Any:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


class _Model:
    def __init__(self) -> None:
        self.found: list[tuple[int, bool | None]] = []
        self.decoder = self

    def prepare_adapter(self, adapter: object) -> None:  # noqa: ARG002
        self.found.append(_is_alone())


@pytest.mark.usefixtures("two_threads")
def test_adapters_are_read_and_prepared_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = _Model()
    monkeypatch.setattr(model_source, "read_adapter", lambda _path, _model: model.found.append(_is_alone()))
    source, before = ModelAdapters(model), _is_alone()

    def use() -> None:
        source.read(str(Path("adapter")))
        source.prepare(model)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

    has_kernels = kernel_library() is not None
    assert before == (2, False if has_kernels else None)
    assert model.found == [(1, True if has_kernels else None)] * 2
    assert _is_alone() == before


@pytest.mark.usefixtures("two_threads")
def test_a_thread_that_computes_alone_leaves_others_as_they_are() -> None:
    """Also one that begins with torch afterwards, and when the work fails."""
    within, go_on = threading.Event(), threading.Event()

    def compute() -> None:
        with contextlib.suppress(ZeroDivisionError), computing_alone():
            within.set()
            go_on.wait()
            raise ZeroDivisionError

    before, found = _is_alone(), []
    thread = threading.Thread(target=compute)
    thread.start()
    within.wait()
    found.append(_is_alone())
    go_on.set()
    thread.join()
    later = threading.Thread(target=lambda: found.append(_is_alone()))
    later.start()
    later.join()
    assert found == [before, before]
