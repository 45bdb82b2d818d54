"""The lines that an operator reads when an engine starts."""

from engine.config import EngineConfig
from engine.scheduling.steps.budget import StepBudget
from engine.startup.description import describe_steps


def test_steps_are_described_by_the_prompts_that_they_read() -> None:
    second = 1 / 1120
    text = describe_steps(EngineConfig(model="m"), StepBudget(None, second, decode_s=0.01), second)
    assert text.startswith("read in chunks of 560 tokens (0.5 s), or of ")
    assert text.endswith(" (0.07 s) while answers are generated; 1,120 tokens/s at the start")


def test_chunks_with_a_limit_have_no_time() -> None:
    config = EngineConfig(model="m", max_num_batched_tokens=2048)
    assert describe_steps(config, StepBudget(2048), 0.001) == "read in chunks of up to 2,048 tokens"
