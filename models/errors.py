"""Errors of loading and running a model; each message names the subject, the reason and the remedy."""

from collections.abc import Sequence

_MAX_CHARACTERS = 300
# In messages of torch on a CPU, of the system, and of CUDA and its libraries.
_OUT_OF_MEMORY = ("allocate memory", "std::bad_alloc", "out of memory", "STATUS_ALLOC_FAILED")
_OF_DEVICE = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "CUBLAS_STATUS_", "CUDNN_STATUS_")
# After one of these, CUDA answers every later call of the process with the same error.
_STICKY = (
    *("illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address"),
    *("illegal instruction", "invalid program counter", "operation not supported on global/shared address space"),
    *("hardware stack error", "uncorrectable ECC error", "Invalid access of peer GPU memory", "launch timed out"),
    *("fallen off the bus", "GPU is lost", "context is destroyed", "driver shutting down", "unknown error"),
)


class ModelError(Exception):
    """A model cannot be found, read or run. str(error) is a message for users."""


class SettingError(ModelError):
    """An option or an environment variable has a value that no model can use."""


class SourceError(ModelError):
    """The model's files cannot be found or fetched: no such path, hub id or package, or no network."""


class CheckpointError(ModelError):
    """A file is truncated, malformed, or lacks or repeats tensors."""


class MisfitError(CheckpointError):
    """The names or shapes of a checkpoint's tensors do not fit its configuration.

    unlisted: problems beyond those that the message lists.
    """

    def __init__(self, message: str, unlisted: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unlisted = list(unlisted)


class UnsupportedModelError(ModelError):
    """The files are sound, but headrace does not run their architecture or format."""


class DeviceLostError(Exception):
    """A device computes nothing more for this process, which must end; another process can use the device."""


class AdapterError(ModelError):
    """An adapter cannot be read, uses an unsupported feature, or does not fit the base model."""


def shorten_error(error: BaseException) -> str:
    """Return a library's message on one line and shortened, since it may quote a whole file."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated; torch has an error class for this only on GPUs."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)


def is_device_error(error: BaseException) -> bool:
    """Whether CUDA or one of its libraries reports a failure other than a shortage of memory."""
    return any(phrase in str(error) for phrase in _OF_DEVICE) and not is_out_of_memory(error)


def raise_if_lost(error: Exception) -> None:
    """Raise DeviceLostError if `error` is one, or its message says that the device has failed for good."""
    if isinstance(error, DeviceLostError):
        raise error
    text = str(error).lower()
    if is_device_error(error) and any(phrase.lower() in text for phrase in _STICKY):
        raise DeviceLostError(shorten_error(error)) from error
