"""A little of what `make fuzz` does at length, and all inputs that it has found."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.fuzz.bodies import Bodies
from tests.fuzz.corpus import CORPUS, fault_of
from tests.fuzz.files import TARGETS
from tests.fuzz.gguf_model import gguf_model

_FOUND = sorted(path for path in CORPUS.glob("*/*") if path.parent.name in TARGETS)


def test_no_mutated_body_is_the_servers_fault() -> None:
    bodies = Bodies()
    assert bodies.run(150, seed=1) == []
    assert bodies.statuses[400] > 50
    for path in sorted((CORPUS / "bodies").glob("*")):
        route, _, body = path.read_bytes().partition(b"\n")
        assert asyncio.run(bodies.send(route.decode(), body)) is None, path.name


@pytest.mark.parametrize("name", list(TARGETS))
def test_no_mutated_input_is_the_readers_fault(name: str) -> None:
    rng = random.Random(1)
    inputs = [TARGETS[name].draw(rng) for _ in range(40)]
    faults = {data: fault_of(name, data) for data in inputs}
    assert {data: fault for data, fault in faults.items() if fault is not None} == {}


def test_what_is_mutated_is_sound() -> None:
    assert TARGETS["gguf model"].read(gguf_model()) is not None


@pytest.mark.parametrize("path", _FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_stays_mended(path: Path) -> None:
    assert fault_of(path.parent.name, path.read_bytes()) is None
