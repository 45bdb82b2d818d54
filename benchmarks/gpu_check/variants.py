"""Stage "models right": every family computes on the device as on the CPU, from the same random weights."""

import importlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu_check.figures import Figure
from benchmarks.gpu_check.stages import Context
from models.attention.reference import ReferenceAttention
from models.attention.select import select_backend
from models.compute import ComputeConfig
from models.decoder import Decoder
from models.kernels.ops import Operations, select_operations
from models.linear.storage import WeightOptions
from models.loading.load import build_decoder
from models.loading.open import OpenedModel, open_model
from models.sources.resolve import ModelFiles
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.repository import ROOT
from tests.helpers.techniques import described

_PROMPTS = [[5, 9, 9, 17, 3, 60, 2, 41, 8, 30, 30, 7, 1, 64, 99, 4, 12], [77, 3, 3]]
_NEXT = [[20], [21]]
_CPU = torch.device("cpu")
_FP32_ERROR = 1e-3  # of logits with a standard deviation near 1; the order of sums differs
_IN_TINY_RUN = 3


def models_right(context: Context) -> Iterator[Figure]:
    """Compare logits of prompts and of a token after them, in fp32 with the CPU's and in bf16 with the best tokens."""
    torch.backends.cuda.matmul.allow_tf32 = False
    variants = dict(_variants())
    if context.is_tiny:
        variants = dict(list(variants.items())[:: len(variants) // _IN_TINY_RUN])
    failures: list[str] = []
    worst, agreeing, compared = 0.0, 0, 0
    for name, make in variants.items():
        try:
            error, num_same, num_rows = _compare(context, _open(context, name, make))
        except Exception as problem:  # noqa: BLE001 - of one family, whatever it is; the others are compared
            failures.append(f"{name}: {type(problem).__name__}: {problem}"[:200])
            continue
        if error > _FP32_ERROR:
            failures.append(f"{name}: error {error:.2g}")
        worst, agreeing, compared = max(worst, error), agreeing + num_same, compared + num_rows
    yield Figure("variants that are right", len(variants) - len(failures), limit=len(variants))
    yield Figure("largest error in fp32", worst, limit=_FP32_ERROR, more_is_better=False)
    yield Figure("best token the same in bf16", agreeing / max(1, compared), limit=0.9)
    for failure in failures:
        yield Figure("not right", None, limit=0, note=failure)


def _variants() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the tiny configurations of the parity tests that the installed transformers knows."""
    folder = ROOT / "tests" / "models" / "families"
    for path in [*sorted(folder.glob("*_variants.py")), folder / "variants.py"]:
        if path.stem == "all_variants":
            continue
        try:
            module = importlib.import_module(f"tests.models.families.{path.stem}")
        except ImportError:  # configurations that this transformers does not have
            continue
        for name, value in vars(module).items():
            if name.endswith("VARIANTS"):
                yield from value.items()


def _open(context: Context, name: str, make: Callable[[], object]) -> OpenedModel:
    config = make()
    folder = Path(context.folder) / name
    folder.mkdir()
    fields = {**config.to_dict(), "architectures": [described(config)[0]]}  # type: ignore[attr-defined, arg-type]
    (folder / "config.json").write_text(json.dumps(fields, default=str))
    return open_model(ModelFiles(folder, (), name), dummy_seed=0)


def _compare(context: Context, opened: OpenedModel) -> tuple[float, int, int]:
    """Return the largest error in fp32, and of how many rows the best token is the same in bf16."""
    expected = _logits(_on_cpu(opened))
    error = (_logits(_on_device(opened, context.device, torch.float32)) - expected).abs().max().item()
    narrow = _logits(_on_device(opened, context.device, torch.bfloat16))
    return error, int((narrow.argmax(dim=-1) == expected.argmax(dim=-1)).sum()), len(expected)


def _on_cpu(opened: OpenedModel) -> Decoder:
    """Build the decoder by plain torch in fp32."""
    compute = ComputeConfig(ReferenceAttention(), Operations(), torch.float32, torch.float32, _CPU)
    return build_decoder(opened, compute, WeightOptions(), lambda *_: None)[0]


def _on_device(opened: OpenedModel, device: torch.device, dtype: torch.dtype) -> Decoder:
    """Build the decoder as the engine does on this device."""
    backend, _ = select_backend(opened.attention_specs, dtype, dtype, device)
    compute = ComputeConfig(backend, select_operations(dtype, device), dtype, dtype, device)
    return build_decoder(opened, compute, WeightOptions(), lambda *_: None)[0]


def _logits(decoder: Decoder) -> torch.Tensor:
    """Return fp32 logits on the CPU of two prompts side by side, and of the next token of each."""
    run = PagedRun(decoder)
    sequences = [PagedSequence() for _ in _PROMPTS]
    rows = run.step(list(zip(sequences, _PROMPTS, strict=True)))
    rows += run.step(list(zip(sequences, _NEXT, strict=True)))
    return torch.cat([each.float().cpu() for each in rows])
