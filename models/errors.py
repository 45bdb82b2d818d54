"""Errors of loading a model; each message names the thing, the reason and the remedy."""

_MAX_SAID = 300  # characters
_OUT_OF_MEMORY = (
    "allocate memory",
    "std::bad_alloc",
    "out of memory",
)  # in messages of torch on a CPU, and of the system


class ModelError(Exception):
    """A model cannot be found, read or run. str(error) is fit for a user's eyes."""


class SettingError(ModelError):
    """An option or a variable that is read here has a value that cannot be used, whatever the model."""


class SourceError(ModelError):
    """The model's files cannot be found or fetched: no such path, hub id, package, or no network."""


class CheckpointError(ModelError):
    """A file is truncated, malformed, or lacks or repeats tensors."""


class UnsupportedModelError(ModelError):
    """The files are sound, but the architecture or format is not one that headrace runs."""


class AdapterError(ModelError):
    """An adapter cannot be read, has what is not supported, or does not fit the model that it is for."""


def shortened(error: BaseException) -> str:
    """What a library says of a file, on one line: it may quote as much of the file as there is."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_SAID else f"{text[:_MAX_SAID]}..."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this process could not allocate: torch has a class of its own for a GPU's memory alone."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
