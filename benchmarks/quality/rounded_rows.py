"""Cost of rounding activations alone, by kind of layer.

Weights are unchanged, and rows are rounded by token as in w8a8 and fp8-dynamic, on the text of the quality report, in
fp32.

    .venv/bin/python -m benchmarks.quality.rounded_rows smollm2.gguf --encoding fp8
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.tables import markdown
from engine.command_io.progress import foreground_progress
from engine.commands.quantize.calibration import linears_of, rounded_inputs
from engine.quality.eval_chunks import builtin_text, chunk_targets, split_into_chunks
from engine.quality.measure import NUM_TOP, kl_divergence_of
from models.errors import ModelError
from models.forward.chunk_batches import joint_batch
from models.forward.layer_stream import LayerStream, LayerwiseForward
from models.linear.storage import WeightOptions
from models.loading.open import open_model
from models.progress import ProgressReport
from models.quant.tensor import Encoding
from models.sources.resolve import resolve_model
from models.tokenizer.load import load_tokenizer_assets

_ENCODINGS = {"fp8": Encoding.FP8_E4M3, "int8": Encoding.INT8}
_LOGIT_ROWS = 128  # computed together
_NONE, _ALL = "none", "all"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.quality.rounded_rows", description=(__doc__ or "").partition(":")[0]
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a GGUF file or a folder; dequantized")
    parser.add_argument("--encoding", choices=_ENCODINGS, default="fp8", help="of the rounded rows (default: fp8)")
    options = parser.parse_args()
    progress = foreground_progress()
    try:
        rows = measure(options.model, _ENCODINGS[options.encoding], progress)
    except ModelError as error:
        sys.stderr.write(f"rounded_rows: {error}\n")
        return 1
    finally:
        progress.close()
    head = [f"rounded to {options.encoding}", "perplexity", "change", "KL, nats"]
    sys.stdout.write(markdown(head, rows) + "\n")
    return 0


@torch.inference_mode()
def measure(model: Path, encoding: Encoding, progress: ProgressReport) -> list[list[str]]:
    """Return rows of the table: no rounding, all rows rounded, and the rows of each kind of linear layer."""
    files = resolve_model(str(model), None, progress)
    opened = open_model(files)
    eval_chunks = split_into_chunks(
        builtin_text(), load_tokenizer_assets(files, opened.config, opened.gguf_metadata), opened.spec.max_position
    )
    device = torch.device("cpu")
    stream = LayerStream(opened, dtype=torch.float32, device=device, weights=WeightOptions(keeps_quantized=False))
    stream.load_non_layer_weights()
    groups = stream.decoder.cache_layout.groups
    steps = [joint_batch([chunk[:-1]], groups, device) for chunk in eval_chunks]
    forwards: dict[str, list[LayerwiseForward]] = {
        kind: [stream.begin([step]) for step in steps] for kind in (_NONE, _ALL)
    }
    for index, layer in stream.layers("compute", progress):
        for kind in linears_of(layer):
            if kind not in forwards:  # no row of this kind has been rounded so far
                forwards[kind] = [_copy(forward) for forward in forwards[_NONE]]
        for kind, own in forwards.items():
            with _rounded(layer, kind, encoding):
                for forward in own:
                    stream.compute(index, forward)
    reference = [hidden for forward in forwards[_NONE] for hidden in forward.hidden().split(_LOGIT_ROWS)]
    targets = chunk_targets(eval_chunks).split([len(part) for part in reference])
    shown: list[list[str]] = []
    unrounded = 0.0
    for kind, own in forwards.items():
        hidden = [part for forward in own for part in forward.hidden().split(_LOGIT_ROWS)]
        divergence, perplexity = _compared(stream.decoder.logits, reference, hidden, targets)
        unrounded = unrounded or perplexity
        shown.append([kind, f"{perplexity:.2f}", f"{perplexity / unrounded - 1:+.2%}", f"{divergence:.4f}"])
    return shown


def _copy(forward: LayerwiseForward) -> LayerwiseForward:
    rows = [each.clone() for each in forward.rows]  # layers overwrite them
    return LayerwiseForward(forward.batches, forward.rotary_embeddings, rows)


def _rounded(layer: nn.Module, kind: str, encoding: Encoding) -> contextlib.AbstractContextManager[None]:
    """Make linear layers of this kind inside `layer` round their inputs within the context."""
    if kind == _NONE:
        return contextlib.nullcontext()
    return rounded_inputs(layer, encoding, None if kind == _ALL else kind)


def _compared(
    logits: Callable[[torch.Tensor], torch.Tensor],
    reference: Sequence[torch.Tensor],
    hidden: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
) -> tuple[float, float]:
    """Return KL divergence, nats per token, and perplexity, of parts of the text."""
    divergence = log_likelihood = 0.0
    for expected_rows, rows, target in zip(reference, hidden, targets, strict=True):
        expected, actual = logits(expected_rows).log_softmax(-1), logits(rows).log_softmax(-1)
        best = expected.topk(min(NUM_TOP, expected.shape[1]), dim=-1)
        divergence += float(kl_divergence_of(best.values, actual.gather(1, best.indices)).sum())
        log_likelihood += float(actual.gather(1, target[:, None]).sum())
    count = sum(map(len, targets))
    return divergence / count, math.exp(-log_likelihood / count)


if __name__ == "__main__":
    sys.exit(main())
