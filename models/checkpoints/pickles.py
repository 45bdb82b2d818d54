"""Files of weights that headrace does not open, since a pickle can run code. Imports no torch."""

from pathlib import Path

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NO_PICKLES = (
    "a pickle, which can run code when it is opened; use a safetensors version of the model, or convert it with "
    "transformers' save_pretrained"
)


def find_pickle(folder: Path) -> Path | None:
    """Return the first file of a folder that looks like weights in a pickle."""
    return next((path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICKLE_SUFFIXES), None)
