"""Time to compile a small schema while slow ones are being compiled.

python -m benchmarks.structured_outputs.slow_grammars tokenizer.json --vocab-size 151936 --eos-token-id 151645 --slow 8
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

from engine.commands.bench.processor import processor_name
from engine.grammar.compiler import GrammarCompiler
from engine.grammar.lanes import GrammarKey
from engine.grammar.vocabulary import TokenizerSource

_LEAST_MULTIPLE = 1_000_003  # takes many seconds, like each odd number after it


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.structured_outputs.slow_grammars", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("--vocab-size", type=int, required=True, help="width of the model's output layer")
    parser.add_argument("--eos-token-id", type=int, required=True)
    parser.add_argument("--slow", type=int, default=8, help="slow grammars that are under way; default 8")
    parser.add_argument("--rounds", type=int, default=20, help="small schemas that are compiled, one after another")
    options = parser.parse_args()
    source = TokenizerSource(options.tokenizer.read_bytes(), options.vocab_size, [options.eos_token_id])
    compiled = threading.Semaphore(0)
    compiler = GrammarCompiler(source, timeout_s=600, cache_bytes=1 << 30, on_compiled=compiled.release)
    _compile(compiler, compiled, 0)  # reads the vocabulary
    for index in range(options.slow):
        text = _grammar({"type": "integer", "multipleOf": _LEAST_MULTIPLE + 2 * index})
        compiler.start(f"slow{index}", GrammarKey("", text), appends_forced=True)
    seconds = [_compile(compiler, compiled, index) for index in range(1, options.rounds + 1)]
    later_ms = sorted(each * 1000 for each in seconds[1:])
    sys.stdout.write(f"On {processor_name()}, a small schema with {options.slow} slow ones:\n")
    sys.stdout.write(f"behind them all at once {seconds[0] * 1000:.0f} ms; once they are under way ")
    sys.stdout.write(f"{later_ms[len(later_ms) // 2]:.1f} ms (median), {later_ms[-1]:.1f} ms (longest)\n")
    compiler.close()
    return 0


def _compile(compiler: GrammarCompiler, compiled: threading.Semaphore, number: int) -> float:
    """Return the seconds until a small schema, different for each number, is ready."""
    start_s = time.perf_counter()
    schema = {"type": "object", "properties": {"name": {"type": "string"}, f"size{number}": {"type": "integer"}}}
    grammar = compiler.start(f"small{number}", GrammarKey("", _grammar(schema)), appends_forced=True)
    while not grammar.is_ready:
        compiled.acquire()
        if refused := compiler.collect():
            raise SystemExit(f"slow_grammars: {refused[0][1].error}")
    return time.perf_counter() - start_s


def _grammar(schema: dict[str, object]) -> str:
    return json.dumps({"grammars": [{"json_schema": schema}]})


if __name__ == "__main__":
    sys.exit(main())
