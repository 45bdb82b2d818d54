"""`python -m engine.quantize JOB`: the process behind `headrace quantize`.

JOB is JSON: a list of MODEL, the command's own options and a Place. A parent that dies ends it as SIGTERM does.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from engine.config import EngineConfig
from engine.cores import usable_cores
from engine.ending import end_with_parent, exit_on_sigterm
from engine.errors import HeadraceError, StartupError
from engine.file_modes import give_usual_modes
from engine.progress import foreground_progress
from engine.protocol import Quality
from engine.quality import records
from engine.quality.measure import compare
from engine.quality.report import check_quality, measure_reference, quality_key
from engine.quantize.calibration import calibration_text
from engine.quantize.config import QuantizeConfig
from engine.quantize.convert import Written, convert, described_groups
from engine.quantize.place import Place
from models.errors import ModelError, is_out_of_memory
from models.kernels.cpu.library import set_num_threads
from models.loaded import ProgressReport
from models.loader import load_model, open_model, resolve_dtype
from models.sources import ModelFiles, resolve_model

_REMEDY = "choose a --scheme with more bits, --method gptq, or more --calibration-tokens, or allow more"
_OUT_OF_MEMORY = (
    "quantising needs more memory than this process may have; raise its limit (ulimit -v), or free some, or try "
    "--method rtn or --no-quality-report, which need less"
)
_CPU = torch.device("cpu")


def main(argv: Sequence[str]) -> int:
    """Quantise, measure, print the table; returns the exit code."""
    exit_on_sigterm()
    end_with_parent()
    (job,) = argv
    model, options, place = msgspec.json.decode(job)
    config = msgspec.convert(options, QuantizeConfig)
    progress = foreground_progress()
    try:
        quantise(model, config, msgspec.convert(place, Place, dec_hook=_path), progress)
    except (HeadraceError, ModelError) as error:
        progress.close()
        sys.stderr.write(f"headrace: {error}\n")
        return 1
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        progress.close()
        sys.stderr.write(f"headrace: {_OUT_OF_MEMORY}\n")
        return 1
    finally:
        progress.close()
    return 0


def _path(_: type, text: str) -> Path:
    return Path(text)


def quantise(model: str, config: QuantizeConfig, place: Place, progress: ProgressReport) -> None:
    """Make the folder of --out. It appears when it is complete, or not at all."""
    _check_out(place)
    text = calibration_text(config.calibration) if config.calibrates else None
    set_num_threads(config.threads or usable_cores())
    files = resolve_model(model, config.revision, progress)
    with _begun(place) as folder:
        written = convert(files, open_model(files), config, text, folder, progress)
        quality = _measured(files, folder, progress) if config.quality_report else None
        if quality is not None:
            check_quality(quality, config.max_quality_loss, remedy=_REMEDY)
        _put_in_place(place)
    if quality is not None:
        result = ModelFiles(place.out, (), str(place.out))
        records.keep(result, quality_key(EngineConfig(), result, _CPU), quality, progress)
    _say(place.out, config, written, quality)


@contextlib.contextmanager
def _begun(place: Place) -> Iterator[Path]:
    """The folder in which the checkpoint grows, made; gone afterwards if it was not put in place."""
    try:
        try:
            place.out.parent.mkdir(parents=True, exist_ok=True)
            place.partial.mkdir(mode=0o700)
        except OSError as error:
            raise StartupError(
                f"cannot make the folder {place.out}: {error.strerror}; name another with --out"
            ) from error
        yield place.partial
    finally:
        place.remove_partial()


def _put_in_place(place: Place) -> None:
    out, partial = place.out, place.partial
    try:
        give_usual_modes(partial, *partial.iterdir())
        os.replace(partial, out)  # over an empty folder too
    except OSError as error:
        raise StartupError(f"cannot put {out} in place: {error.strerror}; name another folder with --out") from error


def _check_out(place: Place) -> None:
    out = place.out
    if out.exists() and out.samefile(os.curdir):
        raise StartupError(
            "--out is the folder that this command was started in, in whose place the new one would be put; name a "
            "folder in it"
        )
    if out.exists() and not out.is_dir():
        raise StartupError(f"--out {out} is a file; name a folder")
    if out.is_mount():
        raise StartupError(f"--out {out} is a mount point, which cannot be put in place at once; name a folder in it")
    if place.holds_anything:
        raise StartupError(f"--out {out} is not empty; name another folder, or empty it")


def _measured(source: ModelFiles, folder: Path, progress: ProgressReport) -> Quality:
    """The written model against its source."""
    opened = open_model(source)
    dtype = resolve_dtype("auto", opened.checkpoint.dtype, _CPU)
    reference = measure_reference(source, opened, dtype, _CPU, progress)
    files = ModelFiles(folder, (), str(folder))
    model = load_model(files, dtype="auto", device="cpu", generation_config="auto", progress=progress)
    quality = compare(model, reference, progress)
    check_quality(quality, None, remedy=_REMEDY)  # what is kept is finite
    return quality


def _say(out: Path, config: QuantizeConfig, written: Written, quality: Quality | None) -> None:
    console = Console(soft_wrap=True)
    sizes = described_groups(written)
    console.print(f"{out}: {written.num_bytes / 2**30:.2f} GiB, {config.scheme}, {sizes}", highlight=False)
    if written.plain:
        console.print(f"Not quantised: {', '.join(written.plain)}", highlight=False)
    if quality is None:
        return
    table = Table(box=box.SIMPLE)
    for column in ("", "perplexity", "change", "KL divergence", "top-1 agreement"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("unquantised", f"{quality.reference_perplexity:.4g}", "", "", "")
    figures = (f"{quality.loss:+.2%}", f"{quality.kl_divergence:.4f}", f"{quality.top1_agreement:.1%}")
    table.add_row(config.scheme, f"{quality.perplexity:.4g}", *figures)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
