"""Registry of the names that --reasoning-parser takes, which are vLLM's if it has the model, and their marks."""

from collections.abc import Mapping

from engine.errors import OptionError
from server.reasoning.marks import (
    APERTUS,
    APRIEL,
    BRACKETS,
    COHERE,
    GEMMA,
    GRANITE,
    HARMONY,
    KIMI_K3,
    SEED,
    THINK,
    ReasoningMarks,
)

REASONING_PARSERS: Mapping[str, ReasoningMarks] = {
    "apertus": APERTUS,
    "apriel": APRIEL,
    "cohere_command3": COHERE,
    "cohere_command4": COHERE,
    "deepseek_r1": THINK,
    "deepseek_v3": THINK,
    "deepseek_v4": THINK,
    "ernie45": THINK,
    "gemma4": GEMMA,
    "glm45": THINK,
    "glm47": THINK,
    "granite": GRANITE,
    "holo2": THINK,
    "kimi_k2": THINK,
    "kimi_k3": KIMI_K3,
    "mimo": THINK,
    "minimax_m2": THINK,
    "minimax_m3": ReasoningMarks("<mm:think>", "</mm:think>"),
    "mistral": BRACKETS,
    "nemotron_v3": THINK,
    "olmo3": THINK,
    "openai_gptoss": HARMONY,
    "poolside_v1": THINK,
    "qwen3": THINK,
    "seed_oss": SEED,
    "step3": THINK,
    "step3p5": THINK,
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
