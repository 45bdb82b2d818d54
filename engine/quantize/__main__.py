"""`python -m engine.quantize JOB`: the process behind `headrace quantize`.

JOB is JSON: a list of MODEL and the command's own options.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from engine.config import EngineConfig
from engine.cores import usable_cores
from engine.ending import exit_on_sigterm
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
from models.errors import ModelError
from models.kernels.cpu.library import set_num_threads
from models.loaded import ProgressReport
from models.loader import load_model, open_model, resolve_dtype
from models.sources import ModelFiles, resolve_model

_REMEDY = "choose a --scheme with more bits, --method gptq, or more --calibration-tokens, or allow more"
_CPU = torch.device("cpu")


def main(argv: Sequence[str]) -> int:
    """Quantise, measure, print the table; returns the exit code."""
    exit_on_sigterm()
    (job,) = argv
    model, options = msgspec.json.decode(job)
    config = msgspec.convert(options, QuantizeConfig)
    progress = foreground_progress()
    try:
        quantise(model, config, progress)
    except (HeadraceError, ModelError) as error:
        progress.close()
        sys.stderr.write(f"headrace: {error}\n")
        return 1
    finally:
        progress.close()
    return 0


def quantise(model: str, config: QuantizeConfig, progress: ProgressReport) -> None:
    """Make the folder of config.out. It appears when it is complete, or not at all."""
    assert config.out is not None
    out = Path(config.out).expanduser().resolve()  # a link's target is what gets replaced
    _check_out(out)
    text = calibration_text(config.calibration) if config.calibrates else None
    set_num_threads(config.threads or usable_cores())
    files = resolve_model(model, config.revision, progress)
    with _begun(out) as partial:
        written = convert(files, open_model(files), config, text, partial, progress)
        quality = _measured(files, partial, progress) if config.quality_report else None
        if quality is not None:
            check_quality(quality, config.max_quality_loss, remedy=_REMEDY)
        _put_in_place(partial, out)
    _say(out, config, written, quality)


@contextlib.contextmanager
def _begun(out: Path) -> Iterator[Path]:
    """A new folder beside `out`. It is gone afterwards if it was not put in place, and so is what was made above it."""
    absent = [folder for folder in out.parents if not folder.exists()]
    partial: Path | None = None
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        except OSError as error:
            raise StartupError(f"cannot make the folder {out}: {error.strerror}; name another with --out") from error
        yield partial
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        for folder in absent:
            with contextlib.suppress(OSError):  # it holds what was made, or what another put there
                folder.rmdir()


def _put_in_place(partial: Path, out: Path) -> None:
    try:
        give_usual_modes(partial, *partial.iterdir())
        os.replace(partial, out)  # over an empty folder too
    except OSError as error:
        raise StartupError(f"cannot put {out} in place: {error.strerror}; name another folder with --out") from error


def _check_out(out: Path) -> None:
    if out.exists() and out.samefile(os.curdir):
        raise StartupError(
            "--out is the folder that this command was started in, in whose place the new one would be put; name a "
            "folder in it"
        )
    if out.exists() and not out.is_dir():
        raise StartupError(f"--out {out} is a file; name a folder")
    if out.is_mount():
        raise StartupError(f"--out {out} is a mount point, which cannot be put in place at once; name a folder in it")
    if out.is_dir() and any(out.iterdir()):
        raise StartupError(f"--out {out} is not empty; name another folder, or empty it")


def _measured(source: ModelFiles, folder: Path, progress: ProgressReport) -> Quality:
    """The written model against its source, kept beside its weights as a start with --quality-report looks for it."""
    opened = open_model(source)
    dtype = resolve_dtype("auto", opened.checkpoint.dtype, _CPU)
    reference = measure_reference(source, opened, dtype, _CPU, progress)
    files = ModelFiles(folder, (), str(folder))
    model = load_model(files, dtype="auto", device="cpu", generation_config="auto", progress=progress)
    quality = compare(model, reference, progress)
    check_quality(quality, None, remedy=_REMEDY)  # what is kept is finite
    records.keep(files, quality_key(EngineConfig(), files, _CPU), quality)
    return quality


def _say(out: Path, config: QuantizeConfig, written: Written, quality: Quality | None) -> None:
    console = Console()
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
