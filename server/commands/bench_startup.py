"""`headrace bench startup`: starts `headrace serve` several times, and reports the time of each phase."""

import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.console import Console
from rich.table import Table

from engine.command_io.results import check_results_file, write_results
from engine.config import EngineConfig
from engine.errors import StartupError
from engine.wording import counted
from server.commands.child_process import end_process, free_port
from server.commands.options.definitions import CONFIG_VARIABLE, OPTIONS
from server.loadtest.config import StartupConfig

_START_PYTHON = "start Python"  # until the program's first line runs; includes the delay of polling /health
_POLL_S = 0.01
_TIMEOUT_S = 900.0  # covers a first download
_STOP_TIMEOUT_S = 10.0
_CHUNK_BYTES = 8 << 20
_WEIGHT_FILES = ("*.gguf", "*.safetensors")


@dataclass(frozen=True, slots=True)
class Start:
    """Times of one start, from creating the process to the first 200 of /health. The phases add up to total_s."""

    total_s: float
    phases_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class FileRead:
    """The time to read the model's weights, perhaps from the page cache: a lower bound for a start."""

    num_bytes: int
    seconds: float


def run(config: StartupConfig, engine_config: EngineConfig) -> int:
    """Measure the starts, print a table and write the JSON; return the exit code. Raises StartupError."""
    check_results_file(config.json)
    with _options_file(engine_config) as options:
        starts = [_start_once(options) for _ in range(config.num_iters_warmup + config.num_iters)]
    starts = starts[config.num_iters_warmup :]
    read = _read_files(engine_config.model)
    Console().print(_table(engine_config.model, starts, read))
    if config.json is not None:
        _write_json(config, engine_config, starts, read)
    return 0


@contextmanager
def _options_file(engine_config: EngineConfig) -> Iterator[Path]:
    """Yield a temporary configuration file with the options that are not at their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(EngineConfig)}
    values = {name: value for name, value in dataclasses.asdict(engine_config).items() if value != defaults[name]}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        path = Path(folder) / "options.yaml"
        path.write_bytes(msgspec.json.encode(values))  # JSON is YAML
        yield path


def _start_once(options: Path) -> Start:
    variables = {option.variable for option in OPTIONS.values()} | {CONFIG_VARIABLE}  # their values are in the file
    port = free_port()
    command = [sys.executable, "-P", "-m", "server.cli", "serve", "--config", str(options), "--port", str(port)]
    began_s = time.monotonic()
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            env={name: value for name, value in os.environ.items() if name not in variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            while _get(port, "/health") is None:
                if server.poll() is not None or time.monotonic() - began_s > _TIMEOUT_S:
                    log.seek(0)
                    tail = log.read().decode(errors="replace")[-2000:]
                    raise StartupError(f"the server did not become ready; the end of its log:\n{tail}")
                time.sleep(_POLL_S)
            total_s = time.monotonic() - began_s
            phases = _phases(_get(port, "/metrics") or "")
        finally:
            end_process(server, signal.SIGINT, _STOP_TIMEOUT_S)  # without draining
    return Start(total_s, {_START_PYTHON: max(0.0, total_s - sum(phases.values())), **phases})


def _get(port: int, path: str) -> str | None:
    """Return the response body of GET `path`; None while the server is not ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            body: bytes = response.read()
            return body.decode()
    except (urllib.error.URLError, OSError):
        return None


def _phases(metrics: str) -> dict[str, float]:
    samples = [sample for family in text_string_to_metric_families(metrics) for sample in family.samples]
    return {each.labels["phase"]: each.value for each in samples if each.name == "headrace_startup_seconds"}


def _read_files(model: str) -> FileRead | None:
    """Read the weight files of a local model and time it; return None if the model is not a local path."""
    path = Path(model).expanduser()
    files = [path] if path.is_file() else [file for pattern in _WEIGHT_FILES for file in path.glob(pattern)]
    if not files:
        return None
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    began_s, num_bytes = time.perf_counter(), 0
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while count := opened.readinto(buffer):
                num_bytes += count
    return FileRead(num_bytes, time.perf_counter() - began_s)


def _table(model: str, starts: Sequence[Start], read: FileRead | None) -> Table:
    title = f"{model}: {counted(len(starts), 'start')}, seconds, median (lowest-highest)"
    table = Table("phase", title=title, box=box.SIMPLE, title_justify="left")
    table.add_column("s", justify="right")
    for phase in dict.fromkeys(phase for start in starts for phase in start.phases_s):
        table.add_row(phase, _spread([start.phases_s.get(phase, 0.0) for start in starts]))
    table.add_row("ready", _spread([start.total_s for start in starts]), style="bold")
    if read is not None:
        rate = read.num_bytes / read.seconds
        table.add_row(f"reading {read.num_bytes / 1e6:,.0f} MB at {rate / 1e9:.1f} GB/s", f"{read.seconds:.2f}")
    return table


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _write_json(
    config: StartupConfig, engine_config: EngineConfig, starts: Sequence[Start], read: FileRead | None
) -> None:
    result: dict[str, Any] = {
        "benchmark": "startup",
        "engine_config": dataclasses.asdict(engine_config),
        "config": dataclasses.asdict(config),
        "starts": [dataclasses.asdict(start) for start in starts],
        "file_read": None if read is None else dataclasses.asdict(read),
    }
    assert config.json is not None
    write_results(config.json, result)
