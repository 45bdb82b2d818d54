"""The modules of a sentence-transformers model, in the order in which a text passes them."""

import json
from dataclasses import dataclass
from pathlib import Path

from models.config.hf_config import quoted, read_text
from models.errors import CheckpointError, UnsupportedModelError

_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")


@dataclass(frozen=True, slots=True)
class Module:
    kind: str  # the class's name
    path: str  # of its folder, within the model's


def read_modules(path: Path) -> list[Module]:
    """Return a Transformer, then a Pooling, then any number of Dense, then perhaps a Normalize.

    Raises UnsupportedModelError for others, and for another order.
    """
    try:
        entries = sorted(json.loads(read_text(path)), key=lambda entry: int(entry["idx"]))
        modules = [Module(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a list of modules ({error}); fetch the checkpoint again") from None
    for module in modules:
        if module.kind not in _KNOWN:
            raise UnsupportedModelError(
                f"{path}: module {quoted(module.kind)} is not supported; supported are {', '.join(_KNOWN)}"
            )
        if Path(module.path).is_absolute() or ".." in Path(module.path).parts:
            raise CheckpointError(f"{path}: module folder {quoted(module.path)} lies outside; fetch it again")
    kinds = [module.kind for module in modules]
    num_dense = kinds.count("Dense")
    expected = ["Transformer", "Pooling", *["Dense"] * num_dense, *["Normalize"] * (kinds.count("Normalize") > 0)]
    if kinds != expected:
        raise UnsupportedModelError(
            f"{path}: modules in the order {', '.join(kinds)} are not supported; supported is {', '.join(expected)}"
        )
    return modules
