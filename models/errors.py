"""Errors of loading and running a model; each message names the subject, the reason and the remedy."""

from collections.abc import Sequence

_MAX_CHARACTERS = 300
# In messages of torch on a CPU, and of the system.
_OUT_OF_MEMORY = ("allocate memory", "std::bad_alloc", "out of memory")


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


class AdapterError(ModelError):
    """An adapter cannot be read, uses an unsupported feature, or does not fit the base model."""


def shorten_error(error: BaseException) -> str:
    """Return a library's message on one line and shortened, since it may quote a whole file."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated; torch has an error class for this only on GPUs."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
