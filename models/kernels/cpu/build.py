"""Compiles the C++ kernels, one shared library per instruction-set level, into the user's cache.

A library's file name holds a hash of the sources, the options and the compiler's version, so that a changed source or
a new compiler never meets an old binary, and several versions live side by side. Compilation writes to a temporary
folder and moves the finished file into place: processes that start together may compile twice, but never load half
a file.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE_FOLDER = Path(__file__).parent
# GCC may keep a * b + c in one rounding (fast contraction); nothing else of -ffast-math, since NaN and inf matter.
_FLOATS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_COMMON = ("-std=gnu++17", "-O2", "-fPIC", "-pthread", "-fvisibility=hidden", *_FLOATS)
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AMX = ("-mamx-tile", "-mamx-bf16")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")


class KernelBuildError(Exception):
    """The kernels cannot be compiled here; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Level:
    """One instruction-set level and the compiler options that select it."""

    name: str
    options: tuple[str, ...]


# In the order of hr_cpu_level() in cpu_level.cpp.
LEVELS = (
    Level("portable", ()),
    Level("avx2", _AVX2),
    Level("avx512", _AVX512),
    Level("avx512_vnni", (*_AVX512, "-mavx512vnni")),
    Level("avx512_bf16", (*_AVX512, "-mavx512vnni", "-mavx512bf16")),
    Level("amx", (*_AVX512, "-mavx512vnni", "-mavx512bf16", *_AMX)),
)


def cache_folder() -> Path:
    """The folder for compiled kernels: under $HEADRACE_CACHE, $XDG_CACHE_HOME/headrace or ~/.cache/headrace."""
    if given := os.environ.get("HEADRACE_CACHE"):
        return Path(given) / "kernels"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headrace" / "kernels"


def find_compiler() -> str:
    """The C++ compiler to use: $CXX, else the first of g++, c++ and clang++ on the path."""
    names = [given] if (given := os.environ.get("CXX")) else ["g++", "c++", "clang++"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise KernelBuildError(
        f"no C++ compiler found (tried {', '.join(names)}); install one (Debian: apt-get install g++) or set CXX"
    )


def kernel_sources() -> list[Path]:
    """The translation units of a level's library."""
    return sorted(path for path in SOURCE_FOLDER.glob("*.cpp") if path.name != "cpu_level.cpp")


def ensure_level_library(level: Level, folder: Path) -> Path:
    """The compiled library of `level` in `folder`, compiled now if it is not there."""
    return _ensure(f"headrace-{level.name}", kernel_sources(), [*_COMMON, *level.options], folder)


def ensure_probe_library(folder: Path) -> Path:
    """The compiled library with hr_cpu_level() alone in `folder`, compiled now if it is not there."""
    return _ensure("headrace-cpu-level", [SOURCE_FOLDER / "cpu_level.cpp"], ["-O1", "-fPIC"], folder)


def _ensure(stem: str, sources: list[Path], options: list[str], folder: Path) -> Path:
    compiler = find_compiler()
    target = folder / f"{stem}-{_key(compiler, sources, options)}.so"
    if not target.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, sources, options, target)
        except OSError as error:
            raise KernelBuildError(
                f"cannot write compiled kernels to {folder}: {error}; set HEADRACE_CACHE to a writable folder"
            ) from error
    return target


def _key(compiler: str, sources: list[Path], options: list[str]) -> str:
    digest = hashlib.blake2b(digest_size=10)
    digest.update(_run([compiler, "--version"]).encode())
    digest.update(_run([compiler, "-dumpmachine"]).encode())
    digest.update("\0".join(options).encode())
    for path in [*sources, *sorted(SOURCE_FOLDER.glob("*.h"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _compile(compiler: str, sources: list[Path], options: list[str], target: Path) -> None:
    """Compiles all units at once, then links."""
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as name:
        folder = Path(name)
        objects = [folder / f"{path.stem}.o" for path in sources]
        commands = [
            [compiler, *options, "-c", str(source), "-o", str(output)]
            for source, output in zip(sources, objects, strict=True)
        ]
        units = [(command, _start(command)) for command in commands]
        results = [(command, unit.communicate()[0], unit.returncode) for command, unit in units]
        for command, output, status in results:
            _check(command, output, status)
        linked = folder / target.name
        _run([compiler, "-shared", "-pthread", "-o", str(linked), *map(str, objects)])
        os.replace(linked, target)


def _start(command: list[str]) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise KernelBuildError(f"cannot run the C++ compiler {command[0]}: {error}") from error


def _run(command: list[str]) -> str:
    process = _start(command)
    output = process.communicate()[0]
    _check(command, output, process.returncode)
    return output


def _check(command: list[str], output: str, status: int) -> None:
    if status != 0:
        raise KernelBuildError(f"`{' '.join(command)}` failed with status {status}:\n{output.strip()[-4000:]}")
