"""An engine with adapters over a ledger: what is read when, and what becomes of requests if it cannot be."""

import msgspec
import pytest

from engine.adapters.service import Answer
from engine.engine import Engine
from engine.protocol import (
    AdapterInfo,
    AdapterLoaded,
    AdapterRefused,
    AdapterStats,
    EngineRequest,
    FinishReason,
    Resumption,
)
from tests.helpers.adapter_folder import AdapterFolder, adapter_service
from tests.helpers.engines import expected_ids, make_engine, make_request
from tests.helpers.local_client import LocalClient


class Run:
    def __init__(self, folder: AdapterFolder, *, max_loras: int = 1, max_on_host: int = 2) -> None:
        self.folder = folder
        self.answers: list[Answer] = []
        service = adapter_service(folder, self.answers, max_on_host=max_on_host)
        self.engine: Engine
        self.engine, folder.runner = make_engine(adapters=service, max_loras=max_loras)
        self.client = LocalClient(self.engine)

    def load(self, path: str) -> Answer:
        assert self.engine.adapters is not None
        self.engine.adapters.load(len(self.answers), path)
        self.client.generate([])
        return self.answers[-1]

    def ask(self, *paths: str) -> dict[str, FinishReason | None]:
        requests = [self.request(path) for path in paths]
        outputs = self.client.generate(requests)
        for request in requests:
            if outputs[request.id].finish_reason is not FinishReason.ERROR:
                assert outputs[request.id].new_ids == expected_ids(request)
        self.errors = {id: output.error for id, output in outputs.items()}
        return {id: output.finish_reason for id, output in outputs.items()}

    def request(self, path: str) -> EngineRequest:
        adapter = self.folder.ref(path) if path else None
        return make_request(path or "base", [1, 2, 3], max_tokens=4, ignore_eos=True, adapter=adapter)

    @property
    def stats(self) -> AdapterStats:
        stats = self.client.steps[-1].adapters
        assert stats is not None
        return stats


def test_a_load_is_answered_with_what_was_found() -> None:
    run = Run(AdapterFolder(x="X:16"))
    assert run.load("x") == AdapterLoaded(0, AdapterInfo(digest=b"X", rank=16, num_bytes=100))


def test_a_load_of_what_is_no_adapter_or_has_too_high_a_rank_is_refused() -> None:
    run = Run(AdapterFolder(large="L:128"))
    refused = run.load("nothing")
    assert refused == AdapterRefused(0, "nothing has no adapter_config.json")
    too_large = run.load("large")
    assert isinstance(too_large, AdapterRefused)
    assert "rank 128" in too_large.message
    assert "--max-lora-rank is 64" in too_large.message


def test_requests_run_with_adapters_that_are_in_memory_without_reading_them_again() -> None:
    run = Run(AdapterFolder(x="X", y="Y"))
    run.load("x")
    run.load("y")
    assert set(run.ask("x", "y", "").values()) == {FinishReason.LENGTH}
    assert run.folder.num_reads == 2
    assert sum(len(step.adapters.fill_s) for step in run.client.steps if step.adapters is not None) == 2


def test_an_evicted_adapter_is_read_again() -> None:
    run = Run(AdapterFolder(x="X", y="Y", z="Z"))
    for path in "xyz":
        run.load(path)
    assert set(run.ask("x").values()) == {FinishReason.LENGTH}
    assert run.folder.num_reads == 4
    assert run.stats.on_host == 2


def test_an_adapter_that_has_changed_on_disk_is_not_taken_for_the_one_that_was_loaded() -> None:
    run = Run(AdapterFolder(x="X", y="Y"))
    old = run.request("x")
    run.folder.files["x"] = "X2"
    outputs = run.client.generate([old])
    assert outputs["x"].finish_reason is FinishReason.ERROR
    assert outputs["x"].error == "the adapter 'x' has changed since it was loaded"
    assert set(run.ask("x", "y").values()) == {FinishReason.LENGTH}


def test_an_adapter_whose_files_are_gone_ends_its_requests_and_says_nothing_of_paths() -> None:
    run = Run(AdapterFolder(x="X"))
    request = run.request("x")
    del run.folder.files["x"]
    outputs = run.client.generate([request])
    assert outputs["x"].error == "the adapter 'x' cannot be read any more"


def test_an_adapter_that_finds_no_memory_ends_its_requests_alone() -> None:
    run = Run(AdapterFolder(x="X"))
    run.folder.is_memory_short = True
    assert run.ask("x", "") == {"x": FinishReason.ERROR, "base": FinishReason.LENGTH}
    run.folder.is_memory_short = False
    assert run.ask("x") == {"x": FinishReason.LENGTH}


def test_a_forgotten_adapter_leaves_memory_but_not_requests() -> None:
    run = Run(AdapterFolder(x="X"))
    run.load("x")
    request = run.request("x")
    run.engine.add(request)
    assert run.engine.adapters is not None
    run.engine.adapters.forget(b"X")
    del run.folder.files["x"]
    outputs = run.client.generate([])
    assert outputs["x"].new_ids == expected_ids(request)
    run.client.generate([make_request("base", [1])])
    assert run.stats.on_host == 0


def test_a_forgotten_adapter_may_be_the_one_that_makes_room_for_a_new_one() -> None:
    run = Run(AdapterFolder(x="X", y="Y", z="Z"), max_on_host=2)
    run.load("x")
    run.load("y")
    assert run.engine.adapters is not None
    run.engine.adapters.forget(b"X")
    assert isinstance(run.load("z"), AdapterLoaded)
    assert set(run.ask("y", "z").values()) == {FinishReason.LENGTH}
    assert run.folder.num_reads == 3
    assert run.stats.on_host == 2


def test_more_adapters_than_slots_and_memory_all_get_their_turn() -> None:
    names = [f"a{index}" for index in range(7)]
    run = Run(AdapterFolder(**{name: name.upper() for name in names}), max_loras=2, max_on_host=2)
    assert set(run.ask(*names).values()) == {FinishReason.LENGTH}
    assert run.stats.slots_total == 2


def test_streams_go_on_while_adapters_are_prepared() -> None:
    run = Run(AdapterFolder(x="X", y="Y"), max_loras=2)
    run.load("x")
    run.folder.may_prepare.clear()
    run.engine.add(make_request("base", [1, 2], max_tokens=20, ignore_eos=True))
    for path in "xy":  # one in memory, and one that must be read again
        run.engine.add(run.request(path))
    tokens: list[int] = []
    while len(tokens) < 10:
        tokens += [id for output in run.engine.step().outputs for id in output.new_ids]
    assert run.folder.is_preparing.wait(60)
    assert run.folder.slots == {}
    run.folder.may_prepare.set()
    outputs = run.client.generate([])
    assert {id: output.finish_reason for id, output in outputs.items()} == dict.fromkeys(
        ("base", "x", "y"), FinishReason.LENGTH
    )
    assert sorted(run.folder.slots.values()) == [b"X", b"Y"]


def test_a_request_does_not_wait_for_what_an_operator_reads() -> None:
    run = Run(AdapterFolder(x="X", large="L"))
    run.load("x")
    run.folder.may_read.clear()
    assert run.engine.adapters is not None
    run.engine.adapters.load(1, "large")
    run.engine.add(run.request("x"))
    finished: list[FinishReason | None] = []
    while not any(finished):
        if not run.engine.has_work:
            run.engine.wait_for_prepared()
        finished += [output.finish_reason for output in run.engine.step().outputs]
    assert len(run.answers) == 1
    run.folder.may_read.set()
    run.client.generate([])
    assert isinstance(run.answers[-1], AdapterLoaded)


def test_a_slot_is_empty_while_its_next_adapter_is_prepared() -> None:
    run = Run(AdapterFolder(x="X", y="Y"))
    run.ask("x")
    run.folder.may_prepare.clear()
    run.folder.is_preparing.clear()
    run.engine.add(run.request("y"))
    while not run.folder.is_preparing.is_set():
        run.engine.step()
    assert run.folder.slots == {}
    run.folder.may_prepare.set()
    assert run.client.generate([])["y"].finish_reason is FinishReason.LENGTH
    assert run.folder.slots == {0: b"Y"}


def test_an_idle_engine_that_reads_says_that_it_will_have_work() -> None:
    run = Run(AdapterFolder(x="X"))
    assert not run.engine.is_preparing
    run.engine.add(run.request("x"))
    while not run.engine.is_preparing:
        run.engine.step()
    run.engine.wait_for_prepared()
    assert run.engine.has_work


def test_another_engine_reads_the_adapter_again_and_goes_on_with_its_tokens() -> None:
    request = Run(AdapterFolder(x="X")).request("x")
    expected = expected_ids(request)
    resumed = msgspec.structs.replace(request, resumption=Resumption(output_ids=expected[:2], num_cached_tokens=0))
    run = Run(AdapterFolder(x="X"))
    assert run.client.generate([resumed])["x"].new_ids == expected[2:]
    assert run.folder.num_reads == 1


@pytest.mark.parametrize("count", [1, 3])
def test_statistics_name_the_adapters_of_running_and_waiting_requests(count: int) -> None:
    run = Run(AdapterFolder(x="X", y="Y", z="Z"), max_loras=1, max_on_host=3)
    for path in "xyz":
        run.load(path)
    for path in "xyz"[:count]:
        run.engine.add(run.request(path))
    while not run.stats.running:
        run.client.steps.append(run.engine.step().stats)
    assert run.stats.running == ["x"]
    assert run.stats.waiting == ["y", "z"][: count - 1]
