"""Rows of the table about fine-tuning jobs."""

from server.metrics.spec import MetricSpec, MetricType

FINETUNING: tuple[MetricSpec, ...] = (
    MetricSpec("finetune_jobs", MetricType.GAUGE, "Fine-tuning jobs by OpenAI's status.", labels=("status",)),
    MetricSpec("finetune_steps_total", MetricType.COUNTER, "Completed training steps.", labels=()),
    MetricSpec(
        "finetune_tokens_total",
        MetricType.COUNTER,
        "Tokens of examples and replayed answers in these steps.",
        labels=(),
    ),
    MetricSpec(
        "finetune_stopped_seconds_total",
        MetricType.COUNTER,
        "Time for which a job's process was stopped because requests ran or waited (--finetune-yield always).",
        labels=(),
    ),
    MetricSpec(
        "finetune_restarts_total",
        MetricType.COUNTER,
        "Times that a job's process ended unexpectedly and was restarted from its saved state.",
        labels=(),
    ),
)
