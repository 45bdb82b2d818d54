"""The loaded C++ kernels: the choice of the instruction-set level, the library, and the types of its functions.

The functions are called through ctypes with the data_ptr() of tensors: 1.4 us a call with five arguments. The same
function behind a torch.library operator costs 2.7 us, and a step makes some two hundred calls.
"""

import contextlib
import ctypes
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from models.errors import SettingError
from models.kernels.cpu import build
from models.kernels.cpu.tape import Kernel

logger = logging.getLogger(__name__)

LEVEL_VARIABLE = "HEADRACE_CPU_LEVEL"
SPIN_VARIABLE = "HEADRACE_SPIN_US"
_MAX_SPIN_US = 1_000_000
# First arguments of functions over rows, and of linear layers (linear_arguments.h), in letters of tape.TYPES.
_INPUT = "pilllippf"
_LINEAR = _INPUT + "pipilpl"

T = TypeVar("T")


class KernelLibrary:
    """The kernels compiled for one instruction-set level. The C++ source documents each function's arguments."""

    def __init__(self, path: Path, level: str) -> None:
        """Load the library at `path`. Raises OSError if the system's loader refuses it."""
        self._library = ctypes.CDLL(str(path))
        self.path = path
        self.level = level
        # threads
        self.num_threads = self._bind("hr_num_threads", "", ctypes.c_int)
        self.set_num_threads = self._bind("hr_set_num_threads", "i")
        self.set_spin_microseconds = self._bind("hr_set_spin_microseconds", "l")
        self.compute_alone = self._bind("hr_compute_alone", "i", ctypes.c_int)
        self.allow_amx = self._bind("hr_allow_amx", "i")
        # attention
        self.paged_attention = self._bind("hr_paged_attention", "iplpppppliiiiiiiffiiifpppllpiippppii")
        self.choose_positions = self._bind("hr_choose_positions", "iplplppppliiiiip")
        self.rope_kv_write = self._bind("hr_rope_kv_write", "iplplplppipppiiiiiipp")
        self.norm_heads = self._bind("hr_norm_heads", "ipllllliplpf")
        self.head_linear = self._bind("hr_head_linear", "pllpllpllll")
        # whole rows
        self.prepare_rows = self._bind("hr_prepare_rows", _INPUT + "p")
        self.join_rows = self._bind("hr_join_rows", "pipillippfffi")
        self.gate_rows = self._bind("hr_gate_rows", "ppillll")
        self.bound_rows = self._bind("hr_bound_rows", "pillf")
        self.copy_heads = self._bind("hr_copy_heads", "pllplllll")
        # GGUF weights
        self.packed_bytes = self._bind("hr_packed_bytes", "ill", ctypes.c_int64)
        self.pack_weights = self._bind("hr_pack_weights", "ipllp", ctypes.c_int)
        self.gather_rows = self._bind("hr_gather_rows", "iplplip")
        self.dequantize_gguf = self._bind("hr_dequantize_gguf", "ipllip", ctypes.c_int)
        self.quantized_linear = self._bind("hr_quantized_linear", _LINEAR)
        self.quantized_linear_adapted = self._bind("hr_quantized_linear_adapted", _LINEAR + "pp")
        # bf16 and fp32 weights
        self.dense_packed_bytes = self._bind("hr_dense_packed_bytes", "ill", ctypes.c_int64)
        self.dense_pack_weights = self._bind("hr_dense_pack_weights", "ipllp")
        self.dense_gather_rows = self._bind("hr_dense_gather_rows", "iplplp")
        self.bf16_linear = self._bind("hr_bf16_linear", _LINEAR)
        self.f32_linear = self._bind("hr_f32_linear", _LINEAR)
        # adapters
        self.adapt_rows = self._bind("hr_adapt_rows", _INPUT + "pppil")
        # scaled codes
        self.scaled_packed_bytes = self._bind("hr_scaled_packed_bytes", "illl", ctypes.c_int64)
        self.scaled_pack = self._bind("hr_scaled_pack", "ipppflllp")
        self.scaled_gather_rows = self._bind("hr_scaled_gather_rows", "ipllplip")
        self.scaled_linear = self._bind("hr_scaled_linear", _LINEAR + "pif")
        self.quantize = self._bind("hr_quantize", "pillilpp")
        # mixture of experts
        self.moe_rows = self._bind("hr_moe_rows", "ppplppii")
        self.route_rows = self._bind("hr_route_rows", "pplpp")
        # recurrence
        self.causal_conv = self._bind("hr_causal_conv", "ippplppippppiipli")
        self.gated_delta = self._bind("hr_gated_delta", "piplplplpppfffppppipiiiiiii")
        self.state_space = self._bind("hr_state_space", "piplpppfffppppipiiii")
        self.gate_and_norm = self._bind("hr_gate_and_norm", "piplpfiiffplli")
        self.selective_scan = self._bind("hr_selective_scan", "pppplppfppiplppppipli")
        self.linear_unit = self._bind("hr_linear_unit", "ipppplpppfppppipl")
        self.shift_rows = self._bind("hr_shift_rows", "ppippppiipl")
        self.generalized_delta = self._bind("hr_generalized_delta", "ipppppppppppppfppppipii")
        # sampling
        self.best_ids = self._bind("hr_best_ids", "plllpp")
        self.log_sums = self._bind("hr_log_sums", "plllp")
        self.top_ids = self._bind("hr_top_ids", "pllllpp")
        self.top1_probs = self._bind("hr_top1_probs", "plllpp")
        self.draw_ids = self._bind("hr_draw_ids", "plllpp")
        self.mask_rows = self._bind("hr_mask_rows", "pllplpl")
        # measurement and tapes
        self.sum_words = self._bind("hr_sum_words", "pl", ctypes.c_int64)
        self.replay = self._bind("hr_replay", "pl")

    def _bind(self, name: str, arguments: str, returns: type | None = None) -> Kernel:
        """Bind the C function `name`. arguments: a letter of tape.TYPES for each argument."""
        twin = getattr(self._library, f"{name}_replay", None)
        address = None if twin is None else ctypes.cast(twin, ctypes.c_void_p).value
        return Kernel(getattr(self._library, name), arguments, returns, address)


def address(tensor: torch.Tensor | None) -> int | None:
    """Return a tensor's data_ptr(), as functions of the library take it; None stays None."""
    return None if tensor is None else tensor.data_ptr()


def kernel_library() -> KernelLibrary | None:
    """Return the library for this processor, or None if it cannot be compiled or loaded; the reason is logged once.

    Raises SettingError if an environment variable has an invalid value.
    """
    return _library_and_reason()[0]


def describe_kernels() -> str:
    """Return a start-up note: the level in use and the library's file, or the reason why there is none."""
    library, reason = _library_and_reason()
    if library is None:
        return f"Native kernels: none ({str(reason).splitlines()[0]})"  # the compiler's output is in the log
    path = library.path if library.path.exists() else "compiled for this start"
    return f"Native kernels: {library.level} ({path})"


def required_library() -> KernelLibrary:
    """Return the library for this processor, for callers that know that there is one."""
    library = kernel_library()
    assert library is not None
    return library


@functools.cache
def _library_and_reason() -> tuple[KernelLibrary | None, str | None]:
    try:
        return load_level(chosen_level()), None
    except build.KernelBuildError as error:
        logger.warning("native CPU kernels are not available, using slower torch operators: %s", error)
        return None, str(error)


def chosen_level() -> str:
    """Return the instruction-set level in the environment variable LEVEL_VARIABLE, by default the best.

    Raises SettingError if there is no such level, or this processor cannot run it.
    """
    given = os.environ.get(LEVEL_VARIABLE)
    if not given:
        return detect_level()
    names = list(build.LEVELS)
    if given not in names:
        raise SettingError(f"{LEVEL_VARIABLE} is {given!r}; it must be one of {', '.join(names)}")
    runs = names[: names.index(detect_level()) + 1]
    if given not in runs:
        raise SettingError(f"{LEVEL_VARIABLE} is {given}, which this processor does not run; it runs {', '.join(runs)}")
    return given


def detect_level() -> str:
    """Return the name of the best instruction-set level that this processor runs."""
    return _use(build.PROBE, build.best_level)


def load_level(name: str) -> KernelLibrary:
    """Load a level's library; compile it first if it is missing. Raises KernelBuildError if that fails."""

    def load(path: Path) -> KernelLibrary:
        if path.parent not in (build.kernel_folder(), build.PREBUILT_FOLDER):
            logger.warning(
                "the kernels were compiled for this start only, since they cannot be written to %s; set "
                "HEADRACE_CACHE to a writable folder",
                build.kernel_folder(),
            )
        return KernelLibrary(path, name)

    library = _use(build.level_recipe(name), load)
    library.set_num_threads(torch.get_num_threads())
    if (given := os.environ.get(SPIN_VARIABLE)) is not None:
        library.set_spin_microseconds(_spin_microseconds(given))
    return library


def _use(recipe: build.Recipe, load: Callable[[Path], T]) -> T:
    """Call `load` with the wheel's library, else with a compiled one; return the result.

    Libraries are compiled into the cache or, if the cache is not writable, into a temporary folder, which is removed
    afterwards; a loaded library stays loaded. load: raises OSError if the system refuses to load the library.
    """
    if (path := build.prebuilt_library(recipe)) is not None:
        try:
            return load(path)
        except OSError as error:  # say for an older libc
            logger.warning("the kernels of the package do not load here and are compiled instead: %s", error)
    try:
        return _load_compiled(recipe, build.kernel_folder(), load)
    except build.FolderNotWritable as error:
        with _temporary_folder(error) as folder:
            return _load_compiled(recipe, folder, load)


def _load_compiled(recipe: build.Recipe, folder: Path, load: Callable[[Path], T]) -> T:
    path = build.ensure_library(recipe, folder)
    try:
        return load(path)
    except OSError as error:
        raise build.KernelBuildError(
            f"cannot load {path}: {error}; if its file system is mounted noexec, set HEADRACE_CACHE to a folder on "
            "one that is not"
        ) from error


@contextlib.contextmanager
def _temporary_folder(reason: build.FolderNotWritable) -> Iterator[Path]:
    """Make a folder that only this user can write to, since kernels in it are executed. Raises `reason` on failure."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="headrace-kernels-")
    except OSError:
        raise reason from None
    with folder as name:
        yield Path(name)


def _spin_microseconds(given: str) -> int:
    if not given.isascii() or not given.isdigit() or int(given) > _MAX_SPIN_US:
        raise SettingError(
            f"{SPIN_VARIABLE} is {given!r}; it must be a whole number of microseconds from 0 to {_MAX_SPIN_US:,}"
        )
    return int(given)


def set_num_threads(num_threads: int) -> None:
    """Set the number of threads of torch's operators, and of the native kernels if they are loaded."""
    torch.set_num_threads(num_threads)
    if (library := _loaded_library()) is not None:
        library.set_num_threads(num_threads)


def allow_amx(is_allowed: bool) -> None:
    """Allow the loaded kernels to use AMX for products of many rows, or forbid it.

    Without AMX, a row's terms are added up in the same order in any number of rows.
    """
    if (library := _loaded_library()) is not None:
        library.allow_amx(is_allowed)


@contextlib.contextmanager
def computing_alone() -> Iterator[None]:
    """Run torch's operators and the native kernels on the calling thread only, inside the context.

    Other threads compute as before, and the kernels' worker threads stay free for them.
    """
    num_threads, library = torch.get_num_threads(), _loaded_library()
    # With OpenMP this holds for this thread, and for threads that use torch for the first time: so it must not stay.
    torch.set_num_threads(1)
    was_alone = None if library is None else library.compute_alone(True)
    try:
        yield
    finally:
        if library is not None:
            library.compute_alone(was_alone)
        torch.set_num_threads(num_threads)


def _loaded_library() -> KernelLibrary | None:
    return kernel_library() if _library_and_reason.cache_info().currsize else None
