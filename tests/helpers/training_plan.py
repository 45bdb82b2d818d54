"""PLAN: the plan of a small job, for tests without its process."""

from engine.command_io.finetuning.plan import TrainingPlan

PLAN = TrainingPlan(
    num_examples=100,
    num_tokens=10_000,
    num_learned=4_000,
    replayed_tokens=2_000,
    n_epochs=3,
    num_steps=75,
    lora_rank=8,
    num_values=800_000,
    num_parameters=100_000_000,
    num_multiplied=80_000_000,
    width=576,
    weight_bytes=1 << 30,
    state_bytes=1 << 29,
    activation_bytes=1 << 29,
    work_bytes=1 << 28,
    free_bytes=4 << 30,
)
