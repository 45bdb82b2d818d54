"""Quality, memory and speed of each way to store weights: the table in docs/quantization.md.

    .venv/bin/python -m benchmarks.quality.table smollm2.gguf qwen-0.5b.gguf --folder quality

FOLDER stores the checkpoints that `headrace quantize` writes, and all figures, which are not measured again.
`--parts quality memory` needs no quiet machine; `--parts speed` does, and measures memory, too.
"""

import argparse
import gc
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import torch

from benchmarks.results import machine_name
from benchmarks.scenarios import SCENARIOS, put_load
from benchmarks.servers import CompareError, started
from benchmarks.tables import markdown
from engine.command_io.progress import foreground_progress
from engine.config import Quantization
from engine.protocol import Quality
from engine.quality.measure import ReferenceModel, compare_predictions
from engine.quality.report import measure_reference
from engine.startup.load import weight_options
from models.errors import ModelError
from models.kernels.cpu.library import set_num_threads
from models.loading.load import LoadOptions, load_model
from models.loading.open import open_model
from models.progress import ProgressReport
from models.sources.resolve import resolve_model
from models.system.cores import usable_cores

_ROOT = Path(__file__).parents[2]
_SERVE = "--dtype bfloat16 --max-num-seqs 8 --max-model-len 2048 --kv-cache-memory-bytes 134217728"
_START_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Way:
    """A way to store a model's weights. `quantize_flags`: of `headrace quantize`, whose checkpoint is then served."""

    name: str
    title: str
    quantization: Quantization = Quantization.AUTO
    quantize_flags: str | None = None


WAYS = (
    Way("bf16", "bf16: the baseline", Quantization.NONE),
    Way("fp8", "fp8, on load", Quantization.FP8),
    Way("int8", "int8, on load", Quantization.INT8),
    Way("nf4", "nf4 g64, on load", Quantization.NF4),
    Way("int4", "int4 g32, on load", Quantization.INT4),
    *(
        Way(name, f"`quantize --scheme {flags}`{remark}", quantize_flags=f"--scheme {flags}")
        for name, flags, remark in (
            ("fp8-written", "fp8", ""),
            ("int8-written", "int8", ""),
            ("fp8-gptq", "fp8 --method gptq", ""),
            ("fp8-dynamic-rtn", "fp8-dynamic --method rtn", ""),
            ("fp8-dynamic-gptq", "fp8-dynamic", " (calibrated)"),
            ("w8a8-rtn", "w8a8 --method rtn", ""),
            ("w8a8", "w8a8", " (calibrated)"),
            ("int4-rtn", "int4 --method rtn", ""),
            ("int4-gptq", "int4", " (calibrated)"),
        )
    ),
    Way("stored", "as stored: {stored}"),
)


class Figures(msgspec.Struct):
    quality: Quality | None = None
    formats: dict[str, int] = {}  # format of weights: number of tensors
    weight_mb: float = 0.0
    resident_mb: float = 0.0
    tokens_per_s: float = 0.0  # of one stream


Table = dict[str, dict[str, Figures]]  # model's file -> name of a way -> figures


def main() -> int:
    options = _parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that a running server is stopped too
    ways = [way for way in WAYS if way.name in options.ways]
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        for model in options.models:
            if "quality" in options.parts:
                fill_quality(model, ways, options.folder)
            if "speed" in options.parts or "memory" in options.parts:
                fill_serving(model, ways, options, is_timed="speed" in options.parts)
    except (CompareError, ModelError, OSError) as error:
        sys.stderr.write(f"quality.table: {error}\n")
        return 1
    table = load(options.folder)
    shown = [show(model.name, table[model.name]) for model in options.models if model.name in table]
    sys.stdout.write("\n\n".join([f"On {machine_name()}.", *shown]) + "\n")
    return 0


def _parse_options() -> argparse.Namespace:
    names = [way.name for way in WAYS]
    parser = argparse.ArgumentParser(prog="benchmarks.quality.table", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="a GGUF file or a folder")
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints and figures")
    parser.add_argument("--ways", nargs="+", choices=names, default=names, help="rows to measure (default: all)")
    parts = ("quality", "memory", "speed")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="columns to measure (default: all)")
    parser.add_argument("--port", type=int, default=8960, help="of the servers (default: 8960)")
    return parser.parse_args()


def load(folder: Path) -> Table:
    """The figures in `folder`."""
    path = folder / "figures.json"
    return msgspec.json.decode(path.read_bytes(), type=Table) if path.exists() else {}


def _store(folder: Path, model: Path, way: Way, figures: Figures) -> None:
    table = load(folder)
    table.setdefault(model.name, {})[way.name] = figures
    (folder / "figures.json").write_bytes(msgspec.json.format(msgspec.json.encode(table)) + b"\n")


# --- Quality ---------------------------------------------------------------------------------------------------------


def fill_quality(model: Path, ways: Sequence[Way], folder: Path) -> None:
    """Measure the missing figures: the reference once, then one loaded model after another."""
    known = load(folder).get(model.name, {})
    missing = [way for way in ways if way.name not in known or known[way.name].quality is None]
    for way in missing:
        _write(model, way, folder)
    if not missing:
        return
    set_num_threads(usable_cores())
    progress = foreground_progress()
    try:
        reference = _reference(model, progress)
        for way in missing:
            sys.stderr.write(f"{model.name}: {way.title}\n")
            figures = known.get(way.name, Figures())
            figures.quality = _quality(_served(model, way, folder), way, reference, progress)
            _store(folder, model, way, figures)
    finally:
        progress.close()


def _write(model: Path, way: Way, folder: Path) -> None:
    out = _served(model, way, folder)
    if way.quantize_flags is None or out.exists():
        return
    sys.stderr.write(f"{model.name}: {way.title}\n")
    flags = [*shlex.split(way.quantize_flags), "--no-quality-report", "--out", str(out.absolute())]
    command = [sys.executable, "-m", "server.cli", "quantize", str(model.absolute()), *flags]
    if subprocess.run(command, cwd=_ROOT, check=False, stdout=subprocess.DEVNULL).returncode != 0:
        raise CompareError(f"{model} could not be written with {way.quantize_flags}")


def _served(model: Path, way: Way, folder: Path) -> Path:
    return model if way.quantize_flags is None else folder / f"{model.stem}-{way.name}"


def _reference(model: Path, progress: ProgressReport) -> ReferenceModel:
    files = resolve_model(str(model), None, progress)
    return measure_reference(files, open_model(files), torch.bfloat16, torch.device("cpu"), progress)


def _quality(path: Path, way: Way, reference: ReferenceModel, progress: ProgressReport) -> Quality:
    options = LoadOptions(dtype="bfloat16", weights=weight_options(way.quantization, includes_head=False))
    loaded = load_model(resolve_model(str(path), None, progress), options, progress)
    quality = compare_predictions(loaded, reference, progress)
    del loaded
    gc.collect()  # modules refer to one another
    return quality


# --- Speed and memory ------------------------------------------------------------------------------------------------


def fill_serving(model: Path, ways: Sequence[Way], options: argparse.Namespace, *, is_timed: bool) -> None:
    """Serve each way without figures: one stream, timed or not, then the memory of the server's processes."""
    folder: Path = options.folder
    for way in ways:
        figures = load(folder).get(model.name, {}).get(way.name, Figures())
        if figures.tokens_per_s if is_timed else figures.resident_mb:
            continue
        _write(model, way, folder)
        path = shlex.quote(str(_served(model, way, folder)))
        command = f"headrace serve {path} --port {{port}} --quantization {way.quantization.value} {_SERVE}"
        with started(command, options.port, _START_TIMEOUT_S) as server:
            own = httpx.get(f"{server.url}/v1/models", trust_env=False).json()["data"][0]["headrace"]
            scenario = SCENARIOS["S1"]
            result = put_load(scenario, server.url, "" if is_timed else "--num-prompts 1", way.title)
            figures.resident_mb = server.memory_mb()
        if is_timed:
            figures.tokens_per_s = 1000 / scenario.metrics[0].of(result)
        figures.weight_mb = own["weight_bytes"] / 1e6
        figures.formats = own["weight_formats"]
        _store(folder, model, way, figures)


# --- The table -------------------------------------------------------------------------------------------------------


def show(name: str, figures: dict[str, Figures]) -> str:
    """Return Markdown, with a line that names the baseline of the rows."""
    head = ["perplexity", "change", "KL, nats", "top-1", "weights, MB", "resident, MB", "decode, tokens/s"]
    formats = figures["stored"].formats if "stored" in figures else {}
    stored = ", ".join(f"{format} {count}" for format, count in formats.items())
    rows = [[way.title.format(stored=stored), *_cells(figures[way.name])] for way in WAYS if way.name in figures]
    references = {each.quality.reference: each.quality.num_tokens for each in figures.values() if each.quality}
    baselines = "; ".join(f"{Path(reference).name}; {count:,} tokens" for reference, count in references.items())
    return f"Baseline: {baselines}.\n\n" + markdown([name, *head], rows)


def _cells(figures: Figures) -> list[str]:
    quality = figures.quality
    cells = ["-"] * 4
    if quality is not None:
        cells = [
            f"{quality.perplexity:.2f}",
            f"{round(quality.loss, 4) + 0.0:+.2%}",  # + 0.0: no sign for numbers that round to zero
            f"{round(quality.kl_divergence, 4) + 0.0:.4f}",
            f"{quality.top1_agreement:.1%}",
        ]
    sizes = (figures.weight_mb, figures.resident_mb, figures.tokens_per_s)
    return [*cells, *(f"{value:,.{0 if value >= 100 else 1}f}" if value else "-" for value in sizes)]


if __name__ == "__main__":
    sys.exit(main())
