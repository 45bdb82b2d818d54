"""Registry of the names that --reasoning-parser takes, which are vLLM's if it has the model, and their marks."""

from collections.abc import Mapping

from engine.errors import OptionError
from server.reasoning import marks as known
from server.reasoning.marks import ReasoningMarks

REASONING_PARSERS: Mapping[str, ReasoningMarks] = {
    "apertus": known.APERTUS,
    "apriel": known.APRIEL,
    "cohere_command3": known.COHERE,
    "cohere_command4": known.COHERE,
    "deepseek_r1": known.THINK,
    "deepseek_v3": known.THINK,
    "deepseek_v4": known.THINK,
    "ernie45": known.THINK,
    "gemma4": known.GEMMA,
    "glm45": known.THINK,
    "glm47": known.THINK,
    "granite": known.GRANITE,
    "holo2": known.THINK,
    "kimi_k2": known.THINK,
    "kimi_k3": known.KIMI_K3,
    "mimo": known.THINK,
    "minimax_m2": known.THINK,
    "minimax_m3": ReasoningMarks("<mm:think>", "</mm:think>"),
    "mistral": known.BRACKETS,
    "nemotron_v3": known.THINK,
    "olmo3": known.THINK,
    "openai_gptoss": known.HARMONY,
    "poolside_v1": known.THINK,
    "qwen3": known.THINK,
    "seed_oss": known.SEED,
    "step3": known.THINK,
    "step3p5": known.THINK,
}


def marks_of_parser(name: str) -> ReasoningMarks:
    """Return the marks for a name of --reasoning-parser. Raises OptionError for an unknown name."""
    marks = REASONING_PARSERS.get(name)
    if marks is None:
        raise OptionError(
            f"--reasoning-parser {name!r} is not known; give one of {', '.join(REASONING_PARSERS)}, or leave it out to "
            "have the marks found from the chat template"
        )
    return marks
