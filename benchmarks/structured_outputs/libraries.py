"""JSON schemas in headrace (llguidance) and in xgrammar: how many are accepted, how exactly, and at what cost.

    python -m benchmarks.structured_outputs.libraries CASES tokenizer.json --vocab-size 151936 --eos-token-id 151645

CASES is a folder of JSON files like MaskBench's, each with a `schema` and `tests`, a list of {"valid", "data"}. Needs
headrace, xgrammar, jsonschema and transformers; with `--libraries headrace`, not xgrammar and transformers.
"""

import argparse
import importlib.util
import itertools
import json
import select
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import llguidance
import numpy as np

from benchmarks.structured_outputs.grammar_libraries import Headrace, Matcher, XGrammar
from benchmarks.structured_outputs.instance_order import spellings
from benchmarks.tables import markdown
from engine.commands.bench.processor import processor_name

_ENGINES = ("headrace", "xgrammar")
_PAGE_BYTES = 4096
_SLOW_MS = 1.0  # of a mask


@dataclass
class CaseResult:
    """Result for one schema. Lists are in milliseconds."""

    error: str = ""  # the reason of a refusal; "timeout" if it took too long
    compile_ms: float = 0.0
    mask_ms: list[float] = field(default_factory=list)
    mask_cpu_ms: list[float] = field(default_factory=list)  # processor time of the thread
    num_valid: int = 0
    num_valid_accepted: int = 0
    num_invalid: int = 0
    num_invalid_accepted: int = 0
    num_tokens: int = 0  # of the valid instances that are accepted
    num_forced: int = 0
    resident_bytes: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.structured_outputs.libraries", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("cases", type=Path, help="folder of JSON files")
    parser.add_argument("tokenizer", type=Path, help="a tokenizer.json")
    parser.add_argument("--vocab-size", type=int, required=True, help="width of the model's output layer")
    parser.add_argument("--eos-token-id", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=10, metavar="S", help="for one schema with its instances")
    parser.add_argument("--libraries", nargs="+", choices=_ENGINES, default=_ENGINES)
    parser.add_argument("--verbose", action="store_true", help="name every schema that is refused or wrong")
    parser.add_argument("--worker", choices=_ENGINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        _work(options)
        return 0
    if importlib.util.find_spec("jsonschema") is None:  # otherwise schemas whose instances need it count as refused
        parser.error("the jsonschema package is needed: pip install jsonschema")
    files = sorted(options.cases.glob("*.json"))
    if not files:
        sys.stderr.write(f"libraries: {options.cases} has no JSON files\n")
        return 1
    columns = [_column(_results(engine, files, options)) for engine in options.libraries]
    sys.stdout.write(f"On {processor_name()}; {len(files)} schemas, {options.vocab_size:,} tokens.\n\n")
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    sys.stdout.write(markdown(["", *options.libraries], rows) + "\n")
    return 0


# --- The table -------------------------------------------------------------------------------------------------------


def _column(results: list[CaseResult]) -> dict[str, str]:
    taken = [result for result in results if not result.error]
    compile_ms = np.array([result.compile_ms for result in taken])
    mask_ms = np.array([each for result in taken for each in result.mask_ms])
    mask_cpu_ms = np.array([each for result in taken for each in result.mask_cpu_ms])
    num_slow_schemas = sum(any(each > _SLOW_MS for each in result.mask_cpu_ms) for result in taken)
    num_timeouts = sum(result.error == "timeout" for result in results)

    def total(name: str) -> int:
        return sum(getattr(result, name) for result in taken)

    return {
        "schemas taken": f"{len(taken)} ({len(taken) / len(results):.1%})",
        "timeouts": str(num_timeouts),
        "valid instances accepted": _share(total("num_valid_accepted"), total("num_valid")),
        "invalid instances accepted": _share(total("num_invalid_accepted"), total("num_invalid")),
        "schemas that accept an invalid instance": str(sum(result.num_invalid_accepted > 0 for result in taken)),
        "compile, ms: median, p99, max": _spread(compile_ms, 50, 99, 100),
        "mask, ms a token: mean, p99, max": f"{mask_ms.mean():.3f}, {_spread(mask_ms, 99, 100)}",
        "the same, of the thread's time": f"{mask_cpu_ms.mean():.3f}, {_spread(mask_cpu_ms, 99, 100)}",
        "masks over 1 ms of it; schemas with any": f"{(mask_cpu_ms > _SLOW_MS).mean():.2%}; {num_slow_schemas}",
        "forced tokens": _share(total("num_forced"), total("num_tokens")),
        "memory a schema, KB": f"{_growth(results) / 1000:,.0f}",
    }


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / max(1, whole):.1%})"


def _spread(values: np.ndarray, *percentiles: int) -> str:
    return ", ".join(f"{np.percentile(values, each):,.3g}" for each in percentiles)


def _growth(results: list[CaseResult]) -> float:
    """Return the resident bytes per schema when all are kept; a killed process counts from its restart."""
    growths = [
        after.resident_bytes - before.resident_bytes
        for before, after in itertools.pairwise(results)
        if before.resident_bytes and after.resident_bytes >= before.resident_bytes and not after.error
    ]
    return sum(growths) / max(1, len(growths))


# --- Processes -------------------------------------------------------------------------------------------------------


def _results(engine: str, files: list[Path], options: argparse.Namespace) -> list[CaseResult]:
    """Run each case in a process that is killed if it takes too long."""
    results = []
    process = _start(engine, options)
    for file in files:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{file.resolve()}\n".encode())
        process.stdin.flush()
        readable, _, _ = select.select([process.stdout], [], [], options.timeout)
        line = process.stdout.readline() if readable else b""
        if line:
            results.append(CaseResult(**json.loads(line)))
        else:
            results.append(CaseResult(error="timeout" if not readable else "the process died"))
            _stop(process)
            process = _start(engine, options)
        if options.verbose:
            _report(engine, file, results[-1])
    _stop(process)
    return results


def _start(engine: str, options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """Start a process that is ready for its first case."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.structured_outputs.libraries",
        str(options.cases),
        str(options.tokenizer),
    ]
    command += ["--vocab-size", str(options.vocab_size), "--eos-token-id", str(options.eos_token_id)]
    process = subprocess.Popen([*command, "--worker", engine], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def _report(engine: str, file: Path, result: CaseResult) -> None:
    wrong = result.num_valid - result.num_valid_accepted + result.num_invalid_accepted
    if result.error or wrong:
        sys.stderr.write(f"{engine}: {file.name}: {result.error or f'{wrong} instances wrong'}\n")


def _work(options: argparse.Namespace) -> None:
    engine = (Headrace if options.worker == "headrace" else XGrammar)(options)
    tokenizer = engine.tokenizer
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        case = json.loads(Path(line.strip()).read_text(encoding="utf-8"))
        result = _measure(engine, tokenizer, case)
        result.resident_bytes = int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
        sys.stdout.write(json.dumps(asdict(result)) + "\n")
        sys.stdout.flush()


# --- One case --------------------------------------------------------------------------------------------------------


def _measure(engine: "Headrace | XGrammar", tokenizer: llguidance.LLTokenizer, case: dict[str, Any]) -> CaseResult:
    result = CaseResult()
    start_s = time.perf_counter()
    try:
        compiled = engine.compile(case["schema"])
    except Exception as error:  # noqa: BLE001 - whatever each library raises
        result.error = str(error).replace("\n", " ")[:200] or type(error).__name__
        return result
    result.compile_ms = (time.perf_counter() - start_s) * 1000
    for test in case["tests"]:
        is_accepted = False
        for instance in spellings(test["data"], case["schema"]):
            text = json.dumps(instance, separators=(",", ":"), ensure_ascii=False)
            token_ids = tokenizer.tokenize_str(text)
            is_accepted = _follow(engine.matcher(compiled), token_ids, result)
            if is_accepted and test["valid"]:
                result.num_tokens += len(token_ids)
                result.num_forced += _forced(engine.matcher(compiled), token_ids)
            if is_accepted:
                break
        if test["valid"]:
            result.num_valid += 1
            result.num_valid_accepted += is_accepted
        else:
            result.num_invalid += 1
            result.num_invalid_accepted += is_accepted
    return result


def _follow(matcher: Matcher, token_ids: list[int], result: CaseResult) -> bool:
    """Return whether the instance is accepted. Appends the times of each mask."""
    for token_id in token_ids:
        start_s, start_cpu_s = time.perf_counter(), time.thread_time()
        matcher.fill_mask()
        cpu_s, wall_s = time.thread_time() - start_cpu_s, time.perf_counter() - start_s
        result.mask_ms.append(wall_s * 1000)
        result.mask_cpu_ms.append(cpu_s * 1000)
        if not matcher.accept(token_id):
            return False
    return matcher.can_end()


def _forced(matcher: Matcher, token_ids: list[int]) -> int:
    """Return the number of tokens that need no mask, stretch by stretch."""
    num_forced = index = 0
    while index < len(token_ids):
        stretch = matcher.num_forced(token_ids[index:])
        num_forced += stretch
        for token_id in token_ids[index : index + max(1, stretch)]:
            matcher.accept(token_id)
        index += max(1, stretch)
    return num_forced


if __name__ == "__main__":
    sys.exit(main())
