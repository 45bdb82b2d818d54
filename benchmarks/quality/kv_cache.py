"""The quality of each dtype of the KV cache against that of the activations, on the same text and weights.

    .venv/bin/python -m benchmarks.quality.kv_cache model.gguf... [--text FILE] [--chunk-len 4096]

All tokens of a chunk but its first are predicted from those before them in the chunk.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.quality.perplexity import chunks_of
from benchmarks.results import machine_name
from benchmarks.tables import markdown
from models.architecture.kv_layout import KV_DTYPES
from models.errors import ModelError
from models.forward.chunk_batches import BLOCK_SIZE, step_batches
from models.forward.key_centers import center_keys
from models.kernels.cpu.library import set_num_threads
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import resolve_model
from models.system.cores import usable_cores

_TEXT = Path(__file__).parents[2] / "docs/performance.md"
_LOGIT_ROWS = 64  # computed together


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.quality.kv_cache", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--text", type=Path, default=_TEXT, help="of at least one chunk (default: docs/performance.md)")
    parser.add_argument("--chunk-len", type=int, default=4096, help="tokens in a chunk")
    parser.add_argument("--max-chunks", type=int, default=4)
    parser.add_argument(
        "--dtypes", nargs="+", choices=list(KV_DTYPES), default=["int8", "int4", "fp8_e4m3", "fp8_e5m2"]
    )
    options = parser.parse_args()
    set_num_threads(usable_cores())
    text = options.text.read_text(encoding="utf-8")
    lines = []
    try:
        for name in options.models:
            model = load_model(resolve_model(name, None, _ignore), LoadOptions(dtype="bfloat16"), _ignore)
            model.decoder.serve_context(model.max_position)
            if "int4" in options.dtypes:
                center_keys(model.decoder, dataclasses.replace(model.compute, kv_dtype=torch.int4), model.max_position)
            chunks = chunks_of(text, model.tokenizer, options.chunk_len)[: options.max_chunks]
            lines += [[Path(name).name, *line] for line in compare(model, chunks, options.dtypes)]
    except (ModelError, OSError) as error:
        sys.stderr.write(f"kv_cache: {error}\n")
        return 1
    sys.stdout.write(f"On {machine_name()}; chunks of {options.chunk_len:,} tokens of {options.text.name}.\n\n")
    sys.stdout.write(
        markdown(["model", "KV cache", "perplexity", "difference", "KL, nats a token", "top-1"], lines) + "\n"
    )
    return 0


@torch.inference_mode()
def compare(model: LoadedModel, chunks: Sequence[Sequence[int]], dtypes: Sequence[str]) -> list[list[str]]:
    """Return a line of the table for the cache in the activations' dtype, and one for each of `dtypes`."""
    names = ["auto", *dtypes]
    scores, divergence, agreements = (dict.fromkeys(names, 0.0) for _ in range(3))
    num_tokens = sum(len(chunk) - 1 for chunk in chunks)
    for chunk in chunks:
        hidden = {name: hidden_rows(model, chunk, name) for name in names}
        targets = torch.tensor(chunk[1:])[:, None]
        for first in range(0, len(chunk) - 1, _LOGIT_ROWS):
            rows = slice(first, min(first + _LOGIT_ROWS, len(chunk) - 1))
            log_probs = {name: model.decoder.logits(each[rows]).log_softmax(-1) for name, each in hidden.items()}
            truth = log_probs["auto"]
            for name, each in log_probs.items():
                scores[name] += float(each.gather(1, targets[rows]).sum())
                divergence[name] += float((truth.exp() * (truth - each)).sum())
                agreements[name] += int((each.argmax(-1) == truth.argmax(-1)).sum())
    perplexity = {name: math.exp(-score / num_tokens) for name, score in scores.items()}
    return [
        [
            name,
            f"{perplexity[name]:.4f}",
            f"{perplexity[name] / perplexity['auto'] - 1:+.3%}",
            f"{divergence[name] / num_tokens:.5f}",
            f"{agreements[name] / num_tokens:.2%}",
        ]
        for name in names
    ]


def hidden_rows(model: LoadedModel, chunk: Sequence[int], kv_dtype: str) -> torch.Tensor:
    """Return the last hidden states of a chunk with a cache of its own. kv_dtype: a key of KV_DTYPES, or "auto"."""
    compute = dataclasses.replace(model.compute, kv_dtype=KV_DTYPES.get(kv_dtype, model.dtype))
    layout = compute.cache_layout(model.decoder.mixers)
    num_blocks = -(-len(chunk) // BLOCK_SIZE)
    kv = layout.allocate_unshared(num_blocks, BLOCK_SIZE, model.device, num_states=1)
    return torch.cat([model.decoder(batch, kv) for batch in step_batches(chunk, layout.groups, model.device)])


def _ignore(*_: object) -> None:
    """Report no progress of loading."""


if __name__ == "__main__":
    sys.exit(main())
