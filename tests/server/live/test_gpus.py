"""Figures of GPUs, from an NVML that is not there: metrics, the live feed, and servers without it."""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from server.commands.chat.monitor import screen
from server.live.gpus import GpuFigures, Gpus, watch_gpus
from server.metrics.values import Metrics
from tests.helpers.fake_client import FakeClient, engine_info, http, make_app, says

pytestmark = pytest.mark.fast

UUID = "b5ac7a2f-0000-0000-0000-000000000001"
GIB = 1 << 30


class NVMLError(Exception):
    pass


def nvml(energies_j: Iterator[float] | None = None, *, prefix: str = "GPU-") -> Any:
    """A module `pynvml` that knows one GPU, whose power is not supported."""

    def find(uuid: str) -> str:
        if uuid != prefix + UUID:
            raise NVMLError("Not Found")
        return uuid

    def refuse(handle: str) -> int:
        raise NVMLError(f"Not Supported: {handle}")

    module = ModuleType("pynvml")
    answers = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": find,
        "nvmlDeviceGetName": lambda _: "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=60 * GIB, total=80 * GIB),
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=64),
        "nvmlDeviceGetPowerUsage": refuse,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: round(
            1000 * (50.0 if energies_j is None else next(energies_j))
        ),
    }
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module


def figures(**changes: Any) -> GpuFigures:
    values = {"memory_used": 60 * GIB, "memory_total": 80 * GIB, "busy": 0.64, "power_w": None, "energy_j": 50.0}
    return GpuFigures(name="NVIDIA H100 80GB HBM3", **{**values, **changes})


async def watched(gpus: Gpus, uuids: set[str], rounds: int) -> Metrics:
    """Metrics after some rounds of readings."""
    metrics, left = Metrics("tiny"), iter(range(rounds))
    ended = asyncio.Event()

    def in_use() -> set[str]:
        if next(left, None) is None:
            ended.set()
        return uuids

    task = asyncio.create_task(watch_gpus(gpus, in_use, metrics, interval_s=0.0))
    await ended.wait()
    task.cancel()
    return metrics


def lines(metrics: Metrics) -> list[str]:
    text = metrics.scrape("")[0].decode()
    return [line for line in text.splitlines() if line.startswith("headrace_gpu_")]


@pytest.mark.parametrize("prefix", ["GPU-", "MIG-"])
def test_figures_are_read_by_uuid_and_one_that_is_missing_hides_no_other(prefix: str) -> None:
    gpus = Gpus(lambda: nvml(prefix=prefix))
    assert gpus.of(UUID) is None
    assert gpus.read([UUID]) == {UUID: figures()}
    assert gpus.of(UUID) == figures()
    assert gpus.of(None) is None


async def test_energy_counts_from_the_start_and_a_new_driver_takes_nothing_away() -> None:
    energies = itertools.chain([1000.0, 1010.0, 3.0, 5.0], itertools.repeat(5.0))
    metrics = await watched(Gpus(lambda: nvml(energies)), {UUID}, 4)
    assert lines(metrics) == [
        f'headrace_gpu_memory_used_bytes{{gpu="{UUID}"}} 6.442450944e+10',
        f'headrace_gpu_memory_total_bytes{{gpu="{UUID}"}} 8.589934592e+10',
        f'headrace_gpu_utilization_perc{{gpu="{UUID}"}} 0.64',
        f'headrace_gpu_energy_joules_total{{gpu="{UUID}"}} 12.0',
    ]


async def test_a_server_without_a_gpu_loads_no_library() -> None:
    assert lines(await watched(Gpus(lambda: pytest.fail("loaded")), set(), 2)) == []


async def test_without_the_package_one_line_says_what_adds_the_figures(caplog: pytest.LogCaptureFixture) -> None:
    def missing() -> None:
        raise ImportError("pynvml")

    with caplog.at_level(logging.INFO):
        assert lines(await watched(Gpus(missing), {UUID}, 3)) == []
    assert [record.message for record in caplog.records if "GPU" in record.message] == [
        "figures of GPUs are not in the metrics: pip install 'headrace[gpu]' adds them"
    ]


@pytest.mark.parametrize("fault", ["driver", "device"])
def test_a_driver_that_does_not_answer_is_a_warning(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    module = nvml(prefix="GPU-" if fault == "driver" else "another-")

    def fail() -> None:
        raise NVMLError("Driver Not Loaded")

    if fault == "driver":
        module.nvmlInit = fail
    gpus = Gpus(lambda: module)
    assert gpus.read([UUID]) == gpus.read([UUID]) == {}
    (record,) = caplog.records
    assert ("Driver Not Loaded" if fault == "driver" else "Not Found") in record.message


async def test_top_shows_the_gpu_of_a_model() -> None:
    app = make_app(FakeClient(says("hi"), info=engine_info(device="cuda:0", gpu_uuid=UUID)))
    context = app.state.context
    context.gpus._load = nvml
    context.gpus.read(context.models.gpu_uuids())
    async with http(app) as api:
        answer = await api.get("/dashboard/events", params={"frames": 1})
    frame = context.live._frame(0.0, [])
    assert b'"gpu":{"name":"NVIDIA H100 80GB HBM3"' in frame
    assert answer.status_code == 200


def test_energy_of_a_token_is_that_of_the_written_ones() -> None:
    frame: dict[str, Any] = {
        "gpu": {"name": "H100", "busy": 0.5, "memory_used": 40 * GIB, "memory_total": 80 * GIB, "power_w": 600.0},
        "interval_s": 0.25,
        "work": {"decode_tokens": 500, "prefill_tokens": 0, "running": 1, "queue": QUEUE, "blocks": {"total": 0}},
        "engine": {"state": "ready"},
        "num_open": 1,
        "latencies": {"first_token_s": None, "per_token_s": None},
        "open": [],
        "recent": [],
    }
    line = str(screen({"": frame}).renderables[1])
    assert line == "H100  ·  50% busy  ·  40.0 of 80.0 GiB in use  ·  600 W  ·  0.3 J for each written token"


QUEUE = {"urgent": 0, "interactive": 0, "background": 0}
