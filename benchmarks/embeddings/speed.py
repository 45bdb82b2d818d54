"""Embeddings per second over HTTP against sentence-transformers in its own process or llama-server, in turns.

    python -m benchmarks.embeddings.speed --rival-python VENV/bin/python [--model demo:minilm] [--rounds 7]
        [--dtype float32]
    python -m benchmarks.embeddings.speed --llama-server PATH/llama-server --gguf FILE.gguf [--slots 8]

The texts are the repository's own documents: sentences, and passages of some hundred words. headrace answers
/v1/embeddings with 32 texts per request, so its times include HTTP, JSON and base64. sentence-transformers is called
with the same 32 texts; llama-server gets the same requests and serves the same file. Texts per second of processor
time, over all processes of each, are valid on a busy machine, too. The vectors are compared, and both rank passages for
queries that are the documents' headings.
"""

import argparse
import os
import re
import shlex
import statistics
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.embeddings.rivals import BATCH, Rival, embed, llama_server, sentence_transformers
from benchmarks.servers import Server, started
from models.sources.resolve import resolve_model

_ROOT = Path(__file__).parents[2]
_NUM_RANKED = 10
_WORDS = {"short": (8, 16), "long": (120, 180)}


@dataclass(frozen=True, slots=True)
class Spent:
    """Time spent on the texts of a round."""

    wall_s: float
    processor_s: float


@dataclass(frozen=True, slots=True)
class Round:
    num_texts: int
    ours: Spent
    theirs: Spent


def corpus() -> tuple[dict[str, list[str]], list[str]]:
    """Return texts by kind, and queries: the documents' headings."""
    documents = [path.read_text() for path in sorted((_ROOT / "docs").glob("*.md"))]
    queries = [line.lstrip("# ") for text in documents for line in text.splitlines() if line.startswith("## ")]
    words = re.sub(r"[|`*<>\[\]()#-]+", " ", " ".join(documents)).split()
    texts: dict[str, list[str]] = {}
    for kind, (least, most) in _WORDS.items():
        first, texts[kind] = 0, []
        while first + most < len(words):
            length = least + len(texts[kind]) * 7 % (most - least)
            texts[kind].append(" ".join(words[first : first + length]))
            first += length
    return texts, list(dict.fromkeys(queries))


def processor_s(pids: Iterable[int]) -> float:
    """Return the processor time of the processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime, stime
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(
    client: httpx.Client, server: Server, worker: Rival, texts: Sequence[str], rounds: int, batches: int
) -> list[Round]:
    results = []
    for number in range(rounds + 1):
        first = number * BATCH * batches % (len(texts) - BATCH * batches)
        chosen = texts[first : first + BATCH * batches]
        before_s = processor_s(server.pids())
        with worker.frozen():
            wall_s, _ = embed(client, server, chosen)
        ours = Spent(wall_s, processor_s(server.pids()) - before_s)
        with server.frozen():
            before_s = processor_s(worker.pids())
            wall_s, _ = worker.embed(chosen)
            theirs = Spent(wall_s, processor_s(worker.pids()) - before_s)
        if number:  # the first round warms both up
            results.append(Round(len(chosen), ours, theirs))
    return results


def show(kind: str, rounds: Sequence[Round], num_words: float) -> None:
    cells = [f"{kind} (mean {num_words:.0f} words)"]
    for name in ("wall_s", "processor_s"):
        pairs = [(getattr(each.ours, name), getattr(each.theirs, name), each.num_texts) for each in rounds]
        ratios = [theirs / ours for ours, theirs, _ in pairs]
        cells += [f"{statistics.median(num / ours for ours, _, num in pairs):,.0f}"]
        cells += [f"{statistics.median(num / theirs for _, theirs, num in pairs):,.0f}"]
        cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def compare_results(
    client: httpx.Client, server: Server, worker: Rival, passages: Sequence[str], queries: Sequence[str]
) -> None:
    """Print the lowest cosine of two vectors of one text, and the agreement of the rankings."""
    everything = [*passages, *queries]
    ours, theirs = embed(client, server, everything)[1], worker.embed(everything)[1]
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines = (ours * theirs).sum(axis=1) / norms
    num = len(passages)
    scores = [each[num:] @ each[:num].T for each in (ours, theirs)]
    mine, other = (np.argsort(-each, axis=1, kind="stable")[:, :_NUM_RANKED] for each in scores)
    same_first = float((mine[:, 0] == other[:, 0]).mean())
    same_order = float((mine == other).all(axis=1).mean())
    same_set = float(np.mean([len(set(a) & set(b)) / _NUM_RANKED for a, b in zip(mine, other, strict=True)]))
    sys.stdout.write(
        f"\n{len(everything)} texts: lowest cosine {cosines.min():.7f}, mean {cosines.mean():.7f}\n"
        f"{len(queries)} queries over {num} passages: the same first one for {same_first:.1%}, the same {_NUM_RANKED} "
        f"in the same order for {same_order:.1%}, {same_set:.1%} of these the same\n"
    )


def _rival(options: argparse.Namespace) -> AbstractContextManager[Rival]:
    if options.llama_server is None:
        folder = resolve_model(options.model, None, lambda *_: None).folder
        return sentence_transformers(options.rival_python, folder, options.threads, options.rival_dtype)
    if options.gguf is None:
        raise SystemExit("--llama-server needs --gguf")
    return llama_server(options.llama_server, options.gguf, options.threads, options.port + 1, options.slots)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rivals = parser.add_mutually_exclusive_group(required=True)
    rivals.add_argument("--rival-python", help="of an environment with sentence-transformers")
    rivals.add_argument("--llama-server", help="the program; needs --gguf")
    parser.add_argument("--gguf", type=Path, help="what llama-server and headrace serve")
    parser.add_argument("--slots", type=int, default=8, help="llama-server's")
    parser.add_argument("--model", default="demo:minilm", help="a folder, or what stands for one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=2, help="of 32 texts, in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="bfloat16", help="headrace's")
    parser.add_argument("--rival-dtype", default="float32", help="sentence-transformers'")
    parser.add_argument("--passages", type=int, default=200, help="to rank; 0 compares nothing")
    parser.add_argument("--port", type=int, default=8911)
    options = parser.parse_args()
    texts, queries = corpus()
    model = options.model if options.gguf is None else str(options.gguf)
    command = f"headrace serve {shlex.quote(model)} --port {{port}} --threads {options.threads}"
    with (
        started(f"{command} --dtype {options.dtype}", options.port, 300.0) as server,
        _rival(options) as worker,
        httpx.Client(timeout=300.0) as client,
    ):
        sys.stdout.write(
            f"| texts | headrace, texts/s | {worker.name}, texts/s | ratio | headrace, texts a processor second "
            f"| {worker.name}, the same | ratio |\n|" + " --- |" * 7 + "\n"
        )
        for kind, chosen in texts.items():
            rounds = measure(client, server, worker, chosen, options.rounds, options.batches)
            show(kind, rounds, statistics.mean(len(text.split()) for text in chosen))
        if options.passages:
            compare_results(client, server, worker, texts["long"][: options.passages], queries)


if __name__ == "__main__":
    main()
