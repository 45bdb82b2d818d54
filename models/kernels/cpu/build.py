"""The compiled C++ kernels: shipped in the wheel, or compiled at first start into the user's cache.

There is one shared library for each instruction-set level. Its file name holds a hash of the sources, the options and
the architecture, so that a changed source never meets an old binary: a wheel's library that does not match is not used.
In the cache the compiler's version is hashed too, and several versions lie side by side. Compilation writes to a
temporary folder and moves the finished file into place, so that no process loads half a file. If several processes
start together, one compiles, and the others wait for it.
"""

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from models.system.cache_folder import cache_folder
from models.system.cores import usable_cores
from models.system.files import exclusive_lock

logger = logging.getLogger(__name__)

SOURCE_FOLDER = Path(__file__).parent / "src"
_PROBE_SOURCE = SOURCE_FOLDER / "runtime/cpu_level.cpp"
PREBUILT_FOLDER = Path(__file__).parent / "prebuilt"  # in wheels only
# Called with the number of a library's source files that are compiled, and of all.
OnCompiled = Callable[[int, int], None]

_on_compiled: ContextVar[OnCompiled | None] = ContextVar("on_compiled", default=None)
_TEMPORARY = ".build-"
_ABANDONED_S = 3600.0  # since the last new file in it; no unit takes that long to compile
# GCC may keep a * b + c in one rounding (fast contraction); nothing else of -ffast-math, since NaN and inf matter.
_FLOATS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_COMMON = ("-std=gnu++17", "-O2", "-fPIC", "-pthread", "-fvisibility=hidden", *_FLOATS)
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AMX = ("-mamx-tile", "-mamx-bf16")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")


class KernelBuildError(Exception):
    """The kernels cannot be compiled here; the message says why and what would help."""


class FolderNotWritable(KernelBuildError):
    """The folder has no compiled kernels and cannot be written to."""


_PORTABLE: dict[str, tuple[str, ...]] = {"portable": ()}
_X86_LEVELS = {
    **_PORTABLE,
    "avx2": _AVX2,
    "avx512": _AVX512,
    "avx512_vnni": (*_AVX512, "-mavx512vnni"),
    "avx512_bf16": (*_AVX512, "-mavx512vnni", "-mavx512bf16"),
    "amx": (*_AVX512, "-mavx512vnni", "-mavx512bf16", *_AMX),
}
_ARM64_LEVELS = {
    **_PORTABLE,
    "dotprod": ("-march=armv8.2-a+dotprod",),
    "i8mm_bf16": ("-march=armv8.2-a+dotprod+i8mm+bf16",),
}
# Levels of instruction sets that processors of this architecture have, in the order of hr_cpu_level() in cpu_level.cpp,
# with the compiler options that select each.
LEVELS = {"x86_64": _X86_LEVELS, "amd64": _X86_LEVELS, "aarch64": _ARM64_LEVELS, "arm64": _ARM64_LEVELS}.get(
    platform.machine().lower(), _PORTABLE
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sources and compiler options of a kernel library."""

    name: str
    sources: tuple[Path, ...]
    options: tuple[str, ...]


PROBE = Recipe("headrace-cpu-level", (_PROBE_SOURCE,), ("-O1", "-fPIC"))  # has only hr_cpu_level()


def level_recipe(level: str) -> Recipe:
    """Return the recipe of a level's kernels. level: a key of LEVELS."""
    return Recipe(f"headrace-{level}", tuple(kernel_sources()), (*_COMMON, *LEVELS[level]))


@contextlib.contextmanager
def watching_compilation(on_compiled: OnCompiled) -> Iterator[None]:
    """Report the progress of this thread's compilations inside the context to on_compiled."""
    token = _on_compiled.set(on_compiled)
    try:
        yield
    finally:
        _on_compiled.reset(token)


def kernel_folder() -> Path:
    return cache_folder() / "kernels"


def find_compiler() -> str:
    """Return the C++ compiler to use: $CXX, else the first of g++, c++ and clang++ on the path.

    Raises KernelBuildError if there is none.
    """
    names = [given] if (given := os.environ.get("CXX")) else ["g++", "c++", "clang++"]
    for name in names:
        if path := shutil.which(name):
            return path
    raise KernelBuildError(
        f"no C++ compiler found (tried {', '.join(names)}); install one (Debian: apt-get install g++) or set CXX"
    )


def kernel_sources() -> list[Path]:
    """Return the translation units of a level's library."""
    return sorted(path for path in SOURCE_FOLDER.rglob("*.cpp") if path != _PROBE_SOURCE)


def kernel_headers() -> list[Path]:
    """Return the headers of the translation units, which include them by paths relative to SOURCE_FOLDER."""
    return sorted(SOURCE_FOLDER.rglob("*.h"))


def prebuilt_library(recipe: Recipe) -> Path | None:
    """Return the library that the wheel ships for this recipe, or None if the wheel has none."""
    path = PREBUILT_FOLDER / _file_name(recipe)
    return path if path.exists() else None


def compile_prebuilt(recipe: Recipe, folder: Path) -> Path:
    """Compile a library into `folder` as wheels ship it: for every processor of the recipe's level."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _file_name(recipe)
    _compile(find_compiler(), recipe, target)
    return target


def is_compiled(recipe: Recipe, folder: Path) -> bool:
    """Whether `folder` has the library that this machine's compiler makes for this processor.

    Raises KernelBuildError if this machine has no compiler.
    """
    return os.path.exists(folder / _file_name(recipe, find_compiler()))


def ensure_library(recipe: Recipe, folder: Path) -> Path:
    """Return the compiled library in `folder`; compile it first if it is missing.

    Raises KernelBuildError without a compiler or if compilation fails, FolderNotWritable if `folder` cannot be written.
    """
    compiler = find_compiler()
    target = folder / _file_name(recipe, compiler)
    if not os.path.exists(target):  # unlike Path.exists it returns False for a path without permission
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive_lock(
                target.with_suffix(".lock"), lambda: logger.info("another process compiles %s", recipe.name)
            ):
                if not os.path.exists(target):  # otherwise the process that had the lock before has compiled it
                    _compile(compiler, recipe, target)
        except OSError as error:
            raise FolderNotWritable(
                f"cannot write compiled kernels to {folder}: {error.strerror}; set HEADRACE_CACHE to a writable folder"
            ) from error
    return target


def best_level(probe: Path) -> str:
    """Return this processor's best instruction-set level, detected by the library `probe`.

    Raises OSError if `probe` cannot be loaded.
    """
    return list(LEVELS)[ctypes.CDLL(str(probe)).hr_cpu_level()]


def _file_name(recipe: Recipe, compiler: str | None = None) -> str:
    digest = hashlib.blake2b(digest_size=10)
    if compiler is not None:
        digest.update(_run([compiler, "--version"]).encode())
        digest.update(_run([compiler, "-dumpmachine"]).encode())
    digest.update("\0".join([platform.machine(), platform.system(), *recipe.options]).encode())
    for path in [*recipe.sources, *kernel_headers()]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{recipe.name}-{digest.hexdigest()}.so"


def _compile(compiler: str, recipe: Recipe, target: Path) -> None:
    """Compile the units in parallel, one per usable core, then link them."""
    _remove_abandoned(target.parent)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=target.parent) as name:
        folder = Path(name)
        # Larger files take longer. They start first: one that started last would keep a single core busy at the end.
        sources = sorted(recipe.sources, key=lambda path: path.stat().st_size, reverse=True)
        objects = [str(folder / f"{index}-{path.stem}.o") for index, path in enumerate(sources)]  # stems may recur
        commands = [
            [compiler, *recipe.options, f"-I{SOURCE_FOLDER}", "-c", str(source), "-o", output]
            for source, output in zip(sources, objects, strict=True)
        ]
        _run_all(commands, folder)
        linked = folder / target.name
        _run([compiler, "-shared", "-pthread", "-o", str(linked), *objects], folder)
        os.replace(linked, target)


def _run_all(commands: list[list[str]], folder: Path) -> None:
    """Run the commands in parallel, one per core; after a failure, start no more. Raises KernelBuildError."""
    # A single file, such as the probe, has no progress.
    on_compiled = (_on_compiled.get() if len(commands) > 1 else None) or (lambda _done, _total: None)
    on_compiled(0, len(commands))
    pool = ThreadPoolExecutor(usable_cores())
    try:
        runs = [pool.submit(_run, command, folder) for command in commands]
        for done, run in enumerate(as_completed(runs), 1):
            run.result()
            on_compiled(done, len(runs))
    finally:
        pool.shutdown(cancel_futures=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary folders of compilations that were killed."""
    for left in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)


def _run(command: list[str], temporary_folder: Path | None = None) -> str:
    """Run the compiler and return its output. Raises KernelBuildError if it fails.

    temporary_folder: the compiler's TMPDIR, since the system's may not be writable.
    """
    try:
        process = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=None if temporary_folder is None else {**os.environ, "TMPDIR": str(temporary_folder)},
            text=True,
            errors="replace",  # messages may be in a language that this process's locale cannot encode
            check=False,
        )
    except OSError as error:
        raise KernelBuildError(f"cannot run the C++ compiler {command[0]}: {error}") from error
    if process.returncode != 0:
        raise KernelBuildError(
            f"`{' '.join(command)}` failed with status {process.returncode}:\n{process.stdout.strip()[-4000:]}"
        )
    return process.stdout
