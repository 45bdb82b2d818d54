"""Registry of the tool formats that --tool-call-parser can name."""

import importlib

from engine.errors import OptionError
from server.tools.format import ToolFormat

# The names are vLLM's where it has the format.
FORMATS = {
    "deepseek_v3": "server.tools.formats.deepseek_v3",
    "deepseek_v31": "server.tools.formats.deepseek_v31",
    "gemma4": "server.tools.formats.gemma4",
    "generic": "server.tools.formats.generic",
    "glm45": "server.tools.formats.glm45",
    "granite": "server.tools.formats.granite",
    "hermes": "server.tools.formats.hermes",
    "kimi_k2": "server.tools.formats.kimi_k2",
    "lfm2": "server.tools.formats.lfm2",
    "llama3_json": "server.tools.formats.llama3_json",
    "minimax_m2": "server.tools.formats.minimax_m2",
    "mistral": "server.tools.formats.mistral",
    "openai": "server.tools.formats.openai",
    "phi4_mini_json": "server.tools.formats.phi4_mini_json",
    "pythonic": "server.tools.formats.pythonic",
    "qwen3_coder": "server.tools.formats.qwen3_coder",
    "seed_oss": "server.tools.formats.seed_oss",
}


def named_format(name: str) -> ToolFormat:
    """Return the format of this name. Raises OptionError for a name that is not in FORMATS."""
    if name not in FORMATS:
        raise OptionError(
            f"--tool-call-parser {name!r} is not known; give one of {', '.join(FORMATS)}, or leave it out, and the "
            "format is found from the chat template"
        )
    found: ToolFormat = importlib.import_module(FORMATS[name]).FORMAT
    return found
