"""Log probabilities of GGUF models in headrace and in llama-server, over the whole vocabulary, and both in fp32.

    .venv/bin/python -m benchmarks.quality.llama_server_logprobs tests/fixtures/converted --llama-server PATH

Files may be compressed (.gguf.xz). A file NAME.safetensors beside NAME.gguf, with `ids`, `rows` and `logits`, has a
prompt and transformers' results, which are compared too; otherwise the prompt is random.
"""

import argparse
import lzma
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from safetensors.torch import load_file

from benchmarks.servers import CompareError, free_port, started
from models.errors import ModelError
from models.forward.chunk_batches import BLOCK_SIZE, step_batches
from models.loading.load import LoadOptions, load_model
from models.sources.resolve import resolve_model

# In fp32, keys and values too, and without flash attention, whose sums differ.
_FLAGS = "-t 1 -np 1 -c 512 -ctk f32 -ctv f32 -fa off --no-warmup -fit off"
_START_TIMEOUT_S = 120
_NUM_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and its tokens after which results are compared. logits: of transformers, [rows, V], if known."""

    ids: list[int]
    rows: list[int]
    logits: torch.Tensor | None = None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.quality.llama_server_logprobs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="a GGUF file, or a folder of them")
    parser.add_argument("--llama-server", required=True, metavar="COMMAND", help="with further flags if needed")
    options = parser.parse_args()
    num_failed = 0
    sys.stdout.write("| largest difference to llama-server | headrace | transformers |\n| --- | --- | --- |\n")
    for path in gguf_files(options.models):
        try:
            found = compare(path, options.llama_server)
        except (CompareError, ModelError, OSError) as error:
            sys.stderr.write(f"{path.name}: {error}\n")
            found, num_failed = ["failed", ""], num_failed + 1
        sys.stdout.write(f"| {' | '.join([path.name.partition('.gguf')[0], *found])} |\n")
        sys.stdout.flush()
    return int(num_failed > 0)


def gguf_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and those in the folders, in the order of their names."""
    folders = [sorted(path.glob("*.gguf*")) if path.is_dir() else [path] for path in paths]
    return [file for folder in folders for file in folder]


def compare(path: Path, llama_server: str) -> list[str]:
    """Return the largest differences of headrace's log probabilities, and of transformers', to llama-server's."""
    with tempfile.TemporaryDirectory() as folder:
        model = path
        if path.suffix == ".xz":
            model = Path(folder) / path.stem
            model.write_bytes(lzma.decompress(path.read_bytes()))
        prompt, ours = headrace_log_probs(model, _prompt_beside(path))
        port = free_port()
        command = f"{llama_server} -m {shlex.quote(str(model))} --port {{port}} {_FLAGS}"
        # A text might be no prompt: tiny vocabularies lack most characters.
        with started(command, port, _START_TIMEOUT_S, is_ready=lambda _: True) as server:
            theirs = server_log_probs(server.url, prompt, ours.shape[1])
    references = [ours] if prompt.logits is None else [ours, prompt.logits.log_softmax(-1)]
    return [f"{float((rows - theirs).abs().max()):.1e}" for rows in references] + [""] * (2 - len(references))


def _prompt_beside(path: Path) -> Prompt | None:
    stored = path.with_name(path.name.partition(".gguf")[0] + ".safetensors")
    if not stored.exists():
        return None
    tensors = load_file(stored)
    return Prompt(tensors["ids"].tolist(), tensors["rows"].tolist(), tensors["logits"])


@torch.inference_mode()
def headrace_log_probs(model: Path, prompt: Prompt | None) -> tuple[Prompt, torch.Tensor]:
    """Return the prompt, by default a random one, and headrace's log probabilities of its rows, [rows, V]."""
    loaded = load_model(resolve_model(str(model), None, _ignore), LoadOptions(dtype="float32"), _ignore)
    decoder, device = loaded.decoder, loaded.device
    if prompt is None:
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(decoder.spec.vocab_size, (_NUM_TOKENS,), generator=generator)
        prompt = Prompt(ids.tolist(), list(range(0, _NUM_TOKENS, 5)))
    kv = loaded.cache_layout.allocate_unshared(-(-len(prompt.ids) // BLOCK_SIZE), BLOCK_SIZE, device, num_states=1)
    batches = step_batches(prompt.ids, loaded.cache_layout.groups, device)
    rows = torch.cat([decoder(batch, kv) for batch in batches])[prompt.rows]
    return prompt, decoder.logits(rows).log_softmax(-1)


def server_log_probs(url: str, prompt: Prompt, vocab_size: int) -> torch.Tensor:
    """Return llama-server's log probabilities after each row's token, [rows, V]. Raises CompareError."""
    found = torch.full((len(prompt.rows), vocab_size), float("nan"))
    # Without probabilities, llama-server would answer an end of text or a part of a character.
    body = {"n_predict": 1, "n_probs": vocab_size, "grammar": "root ::= [ -~]+", "cache_prompt": False}
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        for line, row in zip(found, prompt.rows, strict=True):
            answer = http.post("/completion", json={"prompt": prompt.ids[: row + 1], **body})
            if answer.status_code != 200:
                raise CompareError(f"llama-server answered {answer.status_code}: {answer.text}")
            if answer.json()["tokens_evaluated"] != row + 1:
                raise CompareError(f"llama-server computed {answer.json()['tokens_evaluated']} tokens, not {row + 1}")
            for token in answer.json()["completion_probabilities"][0]["top_logprobs"]:
                line[token["id"]] = token["logprob"]
    if found.isnan().any():
        raise CompareError(f"llama-server answered without {int(found.isnan().sum())} of {found.numel()} tokens")
    return found


def _ignore(*_: object) -> None:
    """Report no progress of loading."""


if __name__ == "__main__":
    sys.exit(main())
