"""Registry of the tool formats that --tool-call-parser can name."""

import importlib

from engine.errors import OptionError
from server.tools.format import ToolFormat

# The names are vLLM's where it has the format.
FORMATS = {
    "apertus": "server.tools.formats.apertus",
    "cohere_command3": "server.tools.formats.cohere_command3",
    "cohere_command4": "server.tools.formats.cohere_command4",
    "deepseek_v3": "server.tools.formats.deepseek_v3",
    "deepseek_v31": "server.tools.formats.deepseek_v31",
    "deepseek_v32": "server.tools.formats.deepseek_v32",
    "deepseek_v4": "server.tools.formats.deepseek_v4",
    "ernie45": "server.tools.formats.ernie45",
    "functionary_v32": "server.tools.formats.functionary_v32",
    "functiongemma": "server.tools.formats.functiongemma",
    "gemma4": "server.tools.formats.gemma4",
    "generic": "server.tools.formats.generic",
    "gigachat3": "server.tools.formats.gigachat3",
    "glm45": "server.tools.formats.glm45",
    "glm47": "server.tools.formats.glm47",
    "granite": "server.tools.formats.granite",
    "granite4": "server.tools.formats.granite4",
    "hermes": "server.tools.formats.hermes",
    "hunyuan_a13b": "server.tools.formats.hunyuan_a13b",
    "hy_v3": "server.tools.formats.hy_v3",
    "jamba": "server.tools.formats.jamba",
    "kimi_k2": "server.tools.formats.kimi_k2",
    "kimi_k3": "server.tools.formats.kimi_k3",
    "lfm2": "server.tools.formats.lfm2",
    "ling3": "server.tools.formats.ling3",
    "llama3_json": "server.tools.formats.llama3_json",
    "longcat": "server.tools.formats.longcat",
    "minicpm5": "server.tools.formats.minicpm5",
    "minimax": "server.tools.formats.minimax",
    "minimax_m2": "server.tools.formats.minimax_m2",
    "minimax_m3": "server.tools.formats.minimax_m3",
    "mistral": "server.tools.formats.mistral",
    "muse_glimmer": "server.tools.formats.muse_glimmer",
    "olmo3": "server.tools.formats.olmo3",
    "openai": "server.tools.formats.openai",
    "phi4_mini_json": "server.tools.formats.phi4_mini_json",
    "poolside_v1": "server.tools.formats.poolside_v1",
    "pythonic": "server.tools.formats.pythonic",
    "qwen3_coder": "server.tools.formats.qwen3_coder",
    "seed_oss": "server.tools.formats.seed_oss",
    "step3p5": "server.tools.formats.step3p5",
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
