"""QuantizeConfig: the options of `headrace quantize`. Imported by the command line: no torch here."""

import enum
from dataclasses import dataclass

from engine.config import option
from engine.errors import StartupError


class Method(enum.StrEnum):
    GPTQ = "gptq"
    RTN = "rtn"


SCHEMES = ("int4", "int8", "fp8")
GROUP_SIZES = (128, 64, 32)
MIN_TOKENS = 512  # of calibration
CALIBRATION_TOKENS = 32768


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """What to make of a model, and where to put it. Raises StartupError for options that are wrong together."""

    scheme: str = option(
        "int4",
        "int4 (weights by groups), int8 or fp8 (weights by rows, activations by token).",
        group="Quantisation",
        metavar="{int4,int8,fp8}",
    )
    out: str | None = option(None, "Folder for the checkpoint; made if absent, else empty.", group="Quantisation")
    group_size: int | None = option(
        None,
        "Columns that share a scale of int4: 128, 64 or 32 (default: 128; fewer where a matrix has no multiple of it).",
        group="Quantisation",
    )
    method: Method | None = option(
        None,
        "gptq calibrates on a text, rtn rounds to the nearest (default: gptq for int4, rtn for the others).",
        group="Quantisation",
    )
    calibration: str | None = option(
        None, "Text file to calibrate on (default: one that ships with headrace).", group="Quantisation", metavar="FILE"
    )
    calibration_tokens: int | None = option(
        None,
        f"Most tokens of the text that are used (default: {CALIBRATION_TOKENS:,}).",
        group="Quantisation",
        minimum=MIN_TOKENS,
    )
    revision: str | None = option(None, "Hub branch, tag or commit of MODEL.", group="Quantisation")
    threads: int | None = option(
        None, "Compute threads on a CPU (default: the physical cores).", group="Quantisation", minimum=1
    )
    quality_report: bool = option(True, "Measure the result against MODEL unquantised.", group="Quantisation")
    max_quality_loss: float | None = option(
        None,
        "Largest relative increase of perplexity (0.05 is a twentieth); beyond it nothing is written.",
        group="Quantisation",
        minimum=0,
    )

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            remedy = "serve it with --quantization nf4, or " if self.scheme == "nf4" else ""
            raise StartupError(
                f"--scheme is {self.scheme!r}; compressed-tensors checkpoints are written in {', '.join(SCHEMES)}; "
                f"{remedy}choose one of these"
            )
        if self.out is None:
            raise StartupError("--out is missing; name the folder for the checkpoint")
        if self.group_size is not None and (self.scheme != "int4" or self.group_size not in GROUP_SIZES):
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise StartupError(
                f"--group-size is {self.group_size} with --scheme {self.scheme}; it is for int4, and one of {sizes}"
            )
        if self.method is Method.GPTQ and self.scheme == "fp8":
            raise StartupError(
                "--method gptq rounds to whole numbers, not to fp8; choose rtn, or --scheme int4 or int8"
            )
        given = {"--calibration": self.calibration, "--calibration-tokens": self.calibration_tokens}
        unused = [flag for flag, value in given.items() if value is not None]
        if unused and not self.calibrates:
            remedy = "leave it out" if self.scheme == "fp8" else "add --method gptq, or leave it out"
            raise StartupError(f"{unused[0]} is given, but --method is rtn for {self.scheme}; {remedy}")
        if self.max_quality_loss is not None and not self.quality_report:
            raise StartupError("--max-quality-loss needs the quality report; leave --no-quality-report out")

    @property
    def calibrates(self) -> bool:
        return self.method is Method.GPTQ or (self.method is None and self.scheme == "int4")
