"""quantize: writes a model's quantized checkpoint, measures its quality, and prints both as a table."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from engine.command_io.output_folder import OutputFolder
from engine.command_io.quantize_config import QuantizeConfig
from engine.commands.quantize.calibration import calibration_text
from engine.commands.quantize.checkpoint_writer import ConversionResult
from engine.commands.quantize.convert import convert
from engine.config import EngineConfig
from engine.errors import StartupError
from engine.protocol import Quality
from engine.quality.measure import compare_predictions
from engine.quality.records import QualityRecords
from engine.quality.report import check_quality, measure_reference, quality_key
from models.kernels.cpu.library import set_num_threads
from models.loading.load import LoadOptions, load_model, resolve_dtype
from models.loading.open import open_model
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles, resolve_model
from models.system.cores import usable_cores
from models.system.files import set_default_modes

_REMEDY = "choose a --scheme with more bits, --method gptq, or more --calibration-tokens, or allow more"
_CPU = torch.device("cpu")


def quantize(model: str, config: QuantizeConfig, output: OutputFolder, progress: ProgressReport) -> None:
    """Quantize a model into the folder of --out. The folder appears only when the checkpoint is complete."""
    _check_out(output)
    text = calibration_text(config.calibration) if config.is_calibrated else None
    set_num_threads(config.threads or usable_cores())
    files = resolve_model(model, config.revision, progress)
    with _partial_folder(output) as folder:
        result = convert(files, open_model(files), config, text, folder, progress)
        with _refused(f"put {output.path} in place"):
            set_default_modes(*folder.iterdir())  # before the quality is stored, with a fingerprint of the files
        quality = _measure(files, output, config, progress) if config.quality_report else None
        with _refused(f"put {output.path} in place"):
            set_default_modes(output.partial)
            os.replace(output.partial, output.path)  # over an empty folder too
    _print_report(output.path, config, result, quality)


@contextlib.contextmanager
def _partial_folder(output: OutputFolder) -> Iterator[Path]:
    """Create the temporary folder for the checkpoint; remove it on exit unless it was renamed to --out."""
    absent = [folder for folder in output.path.parents if not folder.exists()]
    try:
        with _refused(f"make the folder {output.path}"):
            output.path.parent.mkdir(parents=True, exist_ok=True)
            output.partial.mkdir(mode=0o700)
        yield output.partial
    finally:
        output.remove_partial()
        for folder in absent:
            with contextlib.suppress(OSError):  # not empty: it has the checkpoint, or files of another process
                folder.rmdir()


@contextlib.contextmanager
def _refused(act: str) -> Iterator[None]:
    """Turn an OSError in the block into a StartupError "cannot {act}: ..."."""
    try:
        yield
    except OSError as error:
        raise StartupError(f"cannot {act}: {error.strerror}; name another folder with --out") from error


def _check_out(output: OutputFolder) -> None:
    out = output.path
    if out.exists() and out.samefile(os.curdir):
        raise StartupError(
            "--out is the folder that this command was started in, and the checkpoint would replace it; name a folder "
            "in it"
        )
    if out.exists() and not out.is_dir():
        raise StartupError(f"--out {out} is a file; name a folder")
    if out.is_mount():
        raise StartupError(f"--out {out} is a mount point, which cannot be put in place at once; name a folder in it")
    if output.has_content:
        raise StartupError(f"--out {out} is not empty; name another folder, or empty it")


def _measure(source: ModelFiles, output: OutputFolder, config: QuantizeConfig, progress: ProgressReport) -> Quality:
    """Compare the quantized model with its source, and store the result beside its weights, where a server started with
    --quality-report looks for it.

    Raises StartupError if a perplexity is not finite, or grew by more than the configured `max_quality_loss`.
    """
    opened = open_model(source)
    dtype = resolve_dtype("auto", opened.checkpoint.dtype, _CPU)
    reference = measure_reference(source, opened, dtype, _CPU, progress)
    files = ModelFiles(output.partial, (), str(output.path))
    records = QualityRecords(files, progress, final_folder=output.path)
    model = load_model(files, LoadOptions(), progress)
    quality = compare_predictions(model, reference, progress)
    check_quality(quality, config.max_quality_loss, remedy=_REMEDY)
    records.store(quality_key(EngineConfig(), _CPU, progress), quality)
    return quality


def _print_report(out: Path, config: QuantizeConfig, result: ConversionResult, quality: Quality | None) -> None:
    console = Console(soft_wrap=True)
    sizes = result.describe_groups()
    console.print(f"{out}: {result.num_bytes / 2**30:.2f} GiB, {config.scheme}, {sizes}", highlight=False)
    if result.unquantized:
        console.print(f"Not quantized: {', '.join(result.unquantized)}", highlight=False)
    if quality is None:
        return
    table = Table(box=box.SIMPLE)
    for column in ("", "perplexity", "change", "KL divergence", "top-1 agreement"):
        table.add_column(column, justify="left" if not column else "right")
    table.add_row("unquantized", f"{quality.reference_perplexity:.4g}", "", "", "")
    figures = (f"{quality.loss:+.2%}", f"{quality.kl_divergence:.4f}", f"{quality.top1_agreement:.1%}")
    table.add_row(config.scheme, f"{quality.perplexity:.4g}", *figures)
    console.print(table)
