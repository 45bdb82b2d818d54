"""quantize: from a model to a folder with its quantized checkpoint, its quality and a table of both."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from engine.config import EngineConfig
from engine.errors import StartupError
from engine.jobs.output_folder import Place
from engine.jobs.quantize_config import QuantizeConfig
from engine.protocol import Quality
from engine.quality.measure import compare
from engine.quality.records import Records
from engine.quality.report import check_quality, measure_reference, quality_key
from engine.startup.threads import usable_cores
from engine.tools.quantize.calibration import calibration_text
from engine.tools.quantize.convert import Written, convert, described_groups
from models.kernels.cpu.library import set_num_threads
from models.loading.load import LoadOptions, load_model, resolve_dtype
from models.loading.open import open_model
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles, resolve_model
from models.system.file_modes import give_usual_modes

_REMEDY = "choose a --scheme with more bits, --method gptq, or more --calibration-tokens, or allow more"
_CPU = torch.device("cpu")


def quantize(model: str, config: QuantizeConfig, place: Place, progress: ProgressReport) -> None:
    """Make the folder of --out. It appears when it is complete, or not at all."""
    _check_out(place)
    text = calibration_text(config.calibration) if config.calibrates else None
    set_num_threads(config.threads or usable_cores())
    files = resolve_model(model, config.revision, progress)
    with _begun(place) as folder:
        written = convert(files, open_model(files), config, text, folder, progress)
        _give_modes(place, *folder.iterdir())  # before the quality is kept, with what can be seen of the files
        quality = _measured(files, place, config, progress) if config.quality_report else None
        _put_in_place(place)
    _say(place.out, config, written, quality)


@contextlib.contextmanager
def _begun(place: Place) -> Iterator[Path]:
    """The folder in which the checkpoint grows, made; gone afterwards if it was not put in place."""
    absent = [folder for folder in place.out.parents if not folder.exists()]
    try:
        _make(place)
        yield place.partial
    finally:
        place.remove_partial()
        for folder in absent:
            with contextlib.suppress(OSError):  # it holds what was made, or what another put there
                folder.rmdir()


def _make(place: Place) -> None:
    try:
        place.out.parent.mkdir(parents=True, exist_ok=True)
        place.partial.mkdir(mode=0o700)
    except OSError as error:
        raise StartupError(f"cannot make the folder {place.out}: {error.strerror}; name another with --out") from error


def _give_modes(place: Place, *paths: Path) -> None:
    try:
        give_usual_modes(*paths)
    except OSError as error:
        raise _refused(place, error) from error


def _put_in_place(place: Place) -> None:
    _give_modes(place, place.partial)
    try:
        os.replace(place.partial, place.out)  # over an empty folder too
    except OSError as error:
        raise _refused(place, error) from error


def _refused(place: Place, error: OSError) -> StartupError:
    return StartupError(f"cannot put {place.out} in place: {error.strerror}; name another folder with --out")


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


def _measured(source: ModelFiles, place: Place, config: QuantizeConfig, progress: ProgressReport) -> Quality:
    """The written model against its source, kept beside its weights as a start with --quality-report looks for it.

    Raises StartupError as `check_quality` does.
    """
    opened = open_model(source)
    dtype = resolve_dtype("auto", opened.checkpoint.dtype, _CPU)
    reference = measure_reference(source, opened, dtype, _CPU, progress)
    files = ModelFiles(place.partial, (), str(place.out))
    records = Records(files, progress, later=place.out)
    model = load_model(files, LoadOptions(), progress)
    quality = compare(model, reference, progress)
    check_quality(quality, config.max_quality_loss, remedy=_REMEDY)
    records.keep(quality_key(EngineConfig(), _CPU), quality)
    return quality


def _say(out: Path, config: QuantizeConfig, written: Written, quality: Quality | None) -> None:
    console = Console(soft_wrap=True)
    sizes = described_groups(written)
    console.print(f"{out}: {written.num_bytes / 2**30:.2f} GiB, {config.scheme}, {sizes}", highlight=False)
    if written.plain:
        console.print(f"Not quantized: {', '.join(written.plain)}", highlight=False)
    if quality is None:
        return
    table = Table(box=box.SIMPLE)
    for column in ("", "perplexity", "change", "KL divergence", "top-1 agreement"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("unquantized", f"{quality.reference_perplexity:.4g}", "", "", "")
    figures = (f"{quality.loss:+.2%}", f"{quality.kl_divergence:.4f}", f"{quality.top1_agreement:.1%}")
    table.add_row(config.scheme, f"{quality.perplexity:.4g}", *figures)
    console.print(table)
