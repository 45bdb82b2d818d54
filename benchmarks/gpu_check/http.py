"""Stage "http": a real server under the load of `headrace bench serve`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.random_models import model_folder
from benchmarks.gpu_check.stages import Context
from benchmarks.servers import free_port, started

_COMMAND = f"{sys.executable} -m server.cli"
_MODEL = "Qwen3-8B"
# Streams: vLLM's tokens a second, and the limit.
_STREAMS = {1: (145.7, 150.0), 32: (3910.0, 3910.0), 256: (13_567.0, 13_600.0)}


def server_command(context: Context, folder: Path, *options: str) -> str:
    """Return the command of a server with random weights; `{port}` is for its port."""
    tiny = ["--threads", "1", "--kv-cache-memory-bytes", "4MiB", "--max-num-seqs", "8"] if context.is_tiny else []
    arguments = ["serve", str(folder), "--port", "{port}", "--load-format", "dummy", "--device", str(context.device)]
    return " ".join([_COMMAND, *arguments, *tiny, *options])


def http(context: Context) -> Iterator[Figure]:
    folder = model_folder(context, _MODEL)
    with started(server_command(context, folder), free_port(), timeout_s=60) as server:
        yield Figure("start until it answers", server.start_s, "s", None if context.is_tiny else 15.0, False)
        for streams, (published, limit) in ({2: (0.0, None)} if context.is_tiny else _STREAMS).items():
            rate, gap_ms = _load(context, server.url, streams)
            yield Figure(f"{_MODEL}: {streams} streams", rate, "tokens/s", limit, published=published or None)
            yield Figure(f"{_MODEL}: {streams} streams, between tokens", gap_ms, "ms")


def _load(context: Context, url: str, streams: int) -> tuple[float, float]:
    """Return tokens a second, and the median milliseconds between two tokens of a stream."""
    path = context.folder / f"load-{streams}.json"
    lengths = ["16", "8"] if context.is_tiny else ["128", "512" if streams < 256 else "256"]
    command = [*_COMMAND.split(), "bench", "serve", "--url", url, "--json", str(path), "--prompt-format", "ids"]
    sizes = ["--num-prompts", str(max(2, streams)), "--max-concurrency", str(streams), "--token-id-range", "10:300"]
    shape = ["--input-len", lengths[0], "--output-len", lengths[1]]
    subprocess.run([*command, *sizes, *shape], check=True, stdout=sys.stderr)
    summary = json.loads(path.read_text())["summary"]
    return summary["output_throughput"], summary["itl_ms"]["p50"]
