"""ALL_VARIANTS: the tiny configurations of every `*_variants.py` in this folder, by name."""

import importlib
from collections.abc import Callable
from pathlib import Path

from transformers import PretrainedConfig


def _collected() -> dict[str, Callable[[], PretrainedConfig]]:
    """Return the variants of all modules in this folder, bound to names that end with VARIANTS."""
    variants: dict[str, Callable[[], PretrainedConfig]] = {}
    for path in sorted(Path(__file__).parent.glob("*variants.py")):
        if path == Path(__file__):
            continue
        for name, value in vars(importlib.import_module(f"{__package__}.{path.stem}")).items():
            if name.endswith("VARIANTS"):
                repeated = variants.keys() & value.keys()
                assert not repeated, f"{path.name}: {repeated} are in another file too"
                variants.update(value)
    return variants


ALL_VARIANTS = _collected()
