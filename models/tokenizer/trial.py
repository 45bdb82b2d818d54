"""Trial of a tokenizer's normalizer and pre-tokenizer, in a process of its own with limits on time and memory.

`python -m models.tokenizer.trial` reads the two from stdin, as in a tokenizer.json, and writes a line once the trial
begins. It applies each of their steps to texts that are hard for regular expressions, and writes what is wrong with
them, or nothing. Oniguruma gives up on an expression after ten million steps at one position, and `tokenizers` then
panics; until then, it takes 0.3 s.
"""

import contextlib
import hashlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from models.errors import CheckpointError, ModelError
from models.system.cache_folder import cache_folder
from models.tokenizer import growth
from models.tokenizer.cache import write_cached
from models.tokenizer.growth import MAX_GROWTH, TokenizerParts, check_growth, flat_steps

_COMMAND = (sys.executable, "-P", "-m", "models.tokenizer.trial")  # -P: not from the current folder
_SECONDS = 5  # of processor time
_TIMEOUT_S = 60.0
_NUM_BYTES = 512 << 20  # besides the program's own
_MAX_ADDED = 1024  # characters, besides those that MAX_GROWTH allows
_LONG, _RUN = 4096, 256  # characters of trial texts
_MAX_LITERALS = 256
_RUNS = ("a", "A", "1", " ", "\n", "\t", ".", "é", "漢", "ﷺ", "a ", "a1", "a.", " \n", "'s", "e\u0301", "_", "-")
_PROSE = "The cat's 12 hats (don't ask) cost $3.50:\n\n\tnaïve Ünïcode İstanbul, 日本語 ﷺ 🙂 x=f(y); //--==\r\n"
_STARTED = "started"
_MAX_STDERR = 300  # characters in messages
_VARIABLES = frozenset({"PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"})
_PREFIXES = ("PYTHON", "LC_", "LD_", "DYLD_", "MALLOC_")
_EMPTY = {"type": "BPE", "vocab": {}, "merges": []}


def try_tokenizer(parts: TokenizerParts, source: str) -> None:
    """Check a tokenizer's parts, and try them in another process. A verdict that nothing is wrong is cached.

    source: the file's path, for messages. Raises CheckpointError for parts that exceed a limit or fail, and ModelError
    if the machine does not let the process complete.
    """
    check_growth(parts, source)
    request = json.dumps({"normalizer": parts.normalizer, "pre_tokenizer": parts.pre_tokenizer}, sort_keys=True)
    if parts.normalizer is None and parts.pre_tokenizer is None:
        return
    verdict = cache_folder() / "tokenizers" / f"tried-{_key(request)}"
    if verdict.is_file():
        return
    if (fault := _try_in_process(request, source)) is not None:
        raise CheckpointError(f"{source}: {fault}; use the tokenizer.json of the original model")
    with contextlib.suppress(OSError):
        write_cached(verdict, b"")


def _key(request: str) -> str:
    """Return the cache key: a hash of the parts, of this code and of the library's version."""
    digest = hashlib.blake2b(digest_size=16)
    for path in (str(growth.__file__), __file__):
        digest.update(Path(path).read_bytes())
    digest.update(f"{tokenizers.__version__}\0{request}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _try_in_process(request: str, source: str) -> str | None:
    """Return what is wrong with the parts; None for nothing. Raises ModelError if the trial could not be made."""
    try:
        process = subprocess.run(
            _COMMAND,
            input=request,
            capture_output=True,
            timeout=_TIMEOUT_S,
            encoding="utf-8",
            check=False,
            env=_environment(),
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"{source}: trying its tokenizer took more than {_TIMEOUT_S:g} s, most of which it waited for a processor; "
            "end other programs, and load the model again"
        ) from None
    cause = f" (the process ended with {_describe_exit(process.returncode, process.stderr)})"
    started, _, fault = process.stdout.partition("\n")
    if process.returncode == -signal.SIGKILL:
        raise ModelError(
            f"{source}: trying its tokenizer was interrupted{cause}, probably because the machine has too little free "
            "memory; free some, and load the model again"
        )
    if started != _STARTED:
        raise ModelError(f"{source}: its tokenizer could not be tried{cause}; install headrace and its libraries again")
    if process.returncode == -signal.SIGXCPU:
        return f"its normalizer or pre_tokenizer takes more than {_SECONDS} s for short texts"
    if process.returncode:
        mib = _NUM_BYTES >> 20
        return f"its normalizer or pre_tokenizer needs more than {mib} MiB for short texts, or fails{cause}"
    return fault or None


def _environment() -> dict[str, str]:
    """Return the variables that a Python process needs to start: no keys of the server, the hub or a cloud."""
    return {name: value for name, value in os.environ.items() if name in _VARIABLES or name.startswith(_PREFIXES)}


def _describe_exit(code: int, stderr: str) -> str:
    """Return the exit code or signal, and the last line of stderr, where Python has the error's message."""
    how = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit status {code}"
    return ": ".join([how, *(line[:_MAX_STDERR] for line in stderr.strip().splitlines()[-1:])])


# --- In the process ---------------------------------------------------------------------------------------------------


def main() -> None:
    request = json.loads(sys.stdin.read())
    _limit()
    sys.stdout.write(f"{_STARTED}\n")
    sys.stdout.flush()  # an abort would lose the line
    sys.stdout.write(_fault(request["normalizer"], request["pre_tokenizer"]) or "")


def _limit() -> None:
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _NUM_BYTES, used + _NUM_BYTES))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(usage.ru_utime + usage.ru_stime) + _SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _fault(normalizer: Any, pre_tokenizer: Any) -> str | None:
    """Return the first fault of the steps; None if there is none, or `tokenizers` cannot read them and will say so."""
    normalizers, splitters = list(flat_steps(normalizer)), list(flat_steps(pre_tokenizer))
    try:
        loaded = [_load(normalizer=step).normalizer for step in normalizers]
        split = [_load(pre_tokenizer=step).pre_tokenizer for step in splitters]
    except Exception:  # noqa: BLE001 - `tokenizers` raises nothing narrower
        return None
    for text in _trial_texts([*normalizers, *splitters]):
        normalized = text
        for step, named in zip(loaded, normalizers, strict=True):
            try:
                normalized = step.normalize_str(normalized)
            except BaseException as error:  # noqa: BLE001 - a panic of the library is not an Exception
                return f"its normalizer {_quote(named)} fails on a text of {len(text)} characters: {error}"
            if len(normalized) > MAX_GROWTH * len(text) + _MAX_ADDED:
                return (
                    f"its normalizer makes a text of {len(normalized):,} characters from one of {len(text):,}; the "
                    f"limit is {MAX_GROWTH} for each, and {_MAX_ADDED:,} more"
                )
        for step, named in zip(split, splitters, strict=True):
            try:
                step.pre_tokenize_str(normalized)
            except BaseException as error:  # noqa: BLE001 - as above
                return f"its pre_tokenizer {_quote(named)} fails on a text of {len(text)} characters: {error}"
    return None


def _load(**part: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Read a tokenizer with this step alone."""
    others = {"version": "1.0", "added_tokens": [], "model": _EMPTY}
    return tokenizers.Tokenizer.from_str(json.dumps({**others, **part}))


def _trial_texts(steps: list[Mapping[str, Any]]) -> Iterator[str]:
    """Yield texts with everything that the steps name, and runs that make a regular expression go back and forth."""
    yield from ("", _PROSE, _PROSE * 20)
    named = list(dict.fromkeys(text for step in steps for text in _texts_in(step)))
    literals = [text for text in named if 1 < len(text) <= _RUN]
    literals += dict.fromkeys(character for text in named for character in text)
    for unit in [*_RUNS, *literals[:_MAX_LITERALS]]:
        yield unit
        run = unit * (_RUN // len(unit))
        yield from (run, f"{run}!", f"!{run}\n")
    for unit in _RUNS:
        yield unit * (_LONG // len(unit))


def _texts_in(step: Mapping[str, Any]) -> Iterator[str]:
    for name, value in step.items():
        if isinstance(value, str) and name not in ("type", "precompiled_charsmap"):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts_in(value)


def _quote(step: Mapping[str, Any]) -> str:
    text = json.dumps(step, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


if __name__ == "__main__":
    main()
