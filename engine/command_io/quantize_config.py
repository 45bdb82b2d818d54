"""QuantizeConfig: the options of `headrace quantize`. The command line imports this: no torch here."""

import enum
from dataclasses import dataclass
from functools import partial

from engine.config import option
from engine.errors import StartupError


class QuantizationMethod(enum.StrEnum):
    GPTQ = "gptq"
    RTN = "rtn"


class Scheme(enum.StrEnum):
    """A quantization scheme. int4, int8 and fp8 quantize only weights, as --quantization does; the other schemes
    quantize activations too."""

    INT4 = "int4"
    INT8 = "int8"
    FP8 = "fp8"
    W8A8 = "w8a8"
    FP8_DYNAMIC = "fp8-dynamic"

    @classmethod
    def _missing_(cls, value: object) -> "Scheme | None":
        """Accept llmcompressor's names, such as W4A16, W8A16 and FP8_DYNAMIC, in letters of any case."""
        name = str(value).lower().replace("_", "-")
        return next((scheme for scheme in cls if name in (scheme.value, _PRESETS.get(scheme))), None)


_PRESETS = {Scheme.INT4: "w4a16", Scheme.INT8: "w8a16"}
_GROUPED = (Scheme.INT4, Scheme.INT8)
_CALIBRATED = (Scheme.INT4, Scheme.W8A8, Scheme.FP8_DYNAMIC)  # with plain rounding, perplexity grows by over 1 %
GROUP_SIZES = (128, 64, 32)
MIN_TOKENS = 512  # of calibration
CALIBRATION_TOKENS = 8192
_option = partial(option, group="Quantization")


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """The options of `headrace quantize`. Raises StartupError for options that contradict each other."""

    scheme: Scheme = _option(
        Scheme.INT4,
        "Weights alone: int4 (W4A16, by groups of columns), int8 (W8A16, by rows) or fp8 (by rows). Activations too, "
        "by token: w8a8 (int8) or fp8-dynamic.",
    )
    out: str | None = _option(None, "Folder for the checkpoint; must be empty or not exist.")
    group_size: int | None = _option(
        None,
        "Columns that share a scale, for int4 and int8: 128, 64 or 32; fewer if they do not divide a matrix's columns "
        "(default: 128 for int4, whole rows for int8).",
    )
    method: QuantizationMethod | None = _option(
        None,
        "gptq calibrates on a text, rtn rounds to the nearest (default: gptq for int4, w8a8 and fp8-dynamic, rtn for "
        "int8 and fp8).",
    )
    calibration: str | None = _option(
        None, "Text file to calibrate on (default: one that ships with headrace).", metavar="FILE"
    )
    calibration_tokens: int | None = _option(
        None, f"Maximum tokens of the text to use (default: {CALIBRATION_TOKENS:,}).", minimum=MIN_TOKENS
    )
    revision: str | None = _option(None, "Hub branch, tag or commit of MODEL.")
    threads: int | None = _option(None, "Compute threads on a CPU (default: the physical cores).", minimum=1)
    quality_report: bool = _option(True, "Measure the result against MODEL unquantized.")
    max_quality_loss: float | None = _option(
        None, "Largest relative increase in perplexity (0.05 is 5 %); beyond it nothing is written.", minimum=0
    )

    def __post_init__(self) -> None:
        if self.out is None:
            raise StartupError("--out is missing; name the folder for the checkpoint")
        if self.group_size is not None and (self.scheme not in _GROUPED or self.group_size not in GROUP_SIZES):
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise StartupError(
                f"--group-size is {self.group_size} with --scheme {self.scheme}; it is for int4 and int8, and one of "
                f"{sizes}"
            )
        given = {"--calibration": self.calibration, "--calibration-tokens": self.calibration_tokens}
        unused = [flag for flag, value in given.items() if value is not None]
        if unused and not self.is_calibrated:
            raise StartupError(
                f"{unused[0]} is given, but --method is rtn for {self.scheme}; add --method gptq, or leave it out"
            )
        if self.max_quality_loss is not None and not self.quality_report:
            raise StartupError("--max-quality-loss needs the quality report; leave --no-quality-report out")

    @property
    def is_calibrated(self) -> bool:
        return self.method is QuantizationMethod.GPTQ or (self.method is None and self.scheme in _CALIBRATED)

    @property
    def columns_per_scale(self) -> int | None:
        """Columns that share a scale; None is a whole row."""
        return self.group_size or (GROUP_SIZES[0] if self.scheme is Scheme.INT4 else None)
