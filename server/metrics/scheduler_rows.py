"""Metrics of the scheduler and the engine's steps, and how each is read from StepStats."""

from server.metrics import buckets
from server.metrics.spec import MODEL, MetricSpec, counter, gauge, histogram

SCHEDULER_ROWS: tuple[MetricSpec, ...] = (
    gauge("num_requests_running", "Requests in the running batch.", lambda s: s.running, is_vllm=True),
    gauge("num_requests_waiting", "Requests that are waiting.", lambda s: s.waiting, is_vllm=True),
    gauge(
        "num_requests_waiting_by_reason",
        "Waiting requests by what they wait for: capacity (a slot and blocks), deferred (their grammar is being "
        "compiled).",
        labels=(MODEL, "reason"),
        step_by={
            "capacity": lambda s: max(0, s.waiting - s.waiting_for_grammar),
            "deferred": lambda s: s.waiting_for_grammar,
        },
        is_vllm=True,
    ),
    gauge(
        "num_requests_waiting_by_class",
        "Waiting requests by service class: urgent, interactive, background (service_tier priority, default, flex).",
        labels=(MODEL, "service_class"),
        step_by={
            "urgent": lambda s: s.waiting_urgent,
            "interactive": lambda s: s.waiting - s.waiting_urgent - s.waiting_background,
            "background": lambda s: s.waiting_background,
        },
    ),
    gauge(
        "queued_prompt_tokens",
        "Tokens of clients' requests before their first token, by state: waiting (to be computed before the answer "
        "starts), cached (the prefix cache had them when the waiting request was last looked at), running (left of "
        "prompts that are being computed).",
        labels=(MODEL, "state"),
        step_by={
            "waiting": lambda s: s.waiting_tokens - s.waiting_cached_tokens,
            "cached": lambda s: s.waiting_cached_tokens,
            "running": lambda s: s.pending_prompt_tokens,
        },
    ),
    gauge(
        "num_batch_requests",
        "Requests of batches in the engine, by state: running, paused (with their blocks in the KV cache, while "
        "clients' requests run), waiting. num_requests_running and num_requests_waiting do not count them.",
        labels=(MODEL, "state"),
        step_by={
            "running": lambda s: s.running_batch,
            "paused": lambda s: s.paused_batch,
            "waiting": lambda s: s.waiting_batch,
        },
    ),
    counter(
        "batch_computed_tokens_total",
        "Tokens that the engine computed for batches, by kind: prefill, decode, recomputed (lost by preemption for "
        "clients' requests). The rows of iterations do not count them.",
        labels=(MODEL, "kind"),
        step_by={
            "prefill": lambda s: s.batch_prefill_tokens - s.batch_recomputed_tokens,
            "decode": lambda s: s.batch_decode_tokens,
            "recomputed": lambda s: s.batch_recomputed_tokens,
        },
    ),
    counter(
        "batch_preemptions_total",
        "Requests of batches that gave up their blocks and were put back in the queue, because memory or slots were "
        "short.",
        lambda s: s.batch_preemptions,
    ),
    counter(
        "num_preemptions_total",
        "Running requests that were put back in the queue, for any reason.",
        lambda s: s.preemptions,
        is_vllm=True,
    ),
    counter(
        "num_preemptions_by_reason_total",
        "Running requests that were put back in the queue, by reason: memory (too few blocks or recurrent states), "
        "service_class, priority, fairness (room for a tenant with less than its share).",
        labels=(MODEL, "reason"),
        step_by={
            "memory": lambda s: s.preemptions_by_reason.get("memory", 0),
            "service_class": lambda s: s.preemptions_by_reason.get("service_class", 0),
            "priority": lambda s: s.preemptions_by_reason.get("priority", 0),
            "fairness": lambda s: s.preemptions_by_reason.get("fairness", 0),
        },
    ),
    gauge(
        "num_tenants",
        "Tenants with running requests, and with waiting ones. Requests without a tenant name count as one tenant.",
        labels=(MODEL, "state"),
        step_by={"running": lambda s: s.tenants_running, "waiting": lambda s: s.tenants_waiting},
    ),
    counter(
        "computed_prompt_tokens_total",
        "Tokens of prompts, of sequences computed again, and of a pooling model's texts that the engine computed, "
        "counted after each step; also those of batches.",
        lambda s: s.read_tokens,
    ),
    counter(
        "corrupted_requests_total",
        "Requests that ended with an error because the model's output was not finite (NaN or infinity).",
        lambda s: s.corrupted,
        is_vllm=True,
    ),
    counter(
        "step_memory_shortages_total",
        "Steps that ran out of memory; their requests are computed again, in smaller steps.",
        lambda s: s.memory_shortages,
    ),
    histogram(
        "iteration_tokens_total",
        "Tokens computed in one step.",
        buckets.ITERATION_TOKENS,
        lambda s: (s.prefill_tokens + s.decode_tokens) or None,
        is_vllm=True,
    ),
    histogram(
        "iteration_prefill_tokens",
        "Tokens of prompts, and of sequences computed again, in one step; steps without any do not count.",
        buckets.ITERATION_TOKENS,
        lambda s: s.prefill_tokens or None,
    ),
    histogram(
        "iteration_decode_tokens",
        "Sampled or drafted tokens in one step; steps without any do not count.",
        buckets.ITERATION_TOKENS,
        lambda s: s.decode_tokens or None,
    ),
    histogram("step_duration_seconds", "Duration of one step.", buckets.STEP_S, lambda s: s.step_s or None),
    counter(
        "predicted_step_seconds_total",
        "Time of steps as the step budget expected it before it learned from them, without drafting and bookkeeping; "
        "steps before its first estimate, and those that compiled or failed, do not count.",
        lambda s: s.predicted_s,
    ),
    counter(
        "predicted_step_measured_seconds_total",
        "Time that the steps of predicted_step_seconds_total took.",
        lambda s: s.measured_s,
    ),
    counter(
        "predicted_step_error_seconds_total",
        "Absolute differences of the predicted and the measured time of each such step; divided by the measured time, "
        "it is the mean error.",
        lambda s: abs(s.predicted_s - s.measured_s),
    ),
    counter(
        "step_phase_seconds_total",
        "Time of all steps by phase: draft, schedule, forward, sample (on a GPU including the wait for the forward "
        "pass), update, and send (after the step).",
        labels=(MODEL, "phase"),
        step_by={
            "draft": lambda s: s.draft_s,
            "schedule": lambda s: s.schedule_s,
            "forward": lambda s: s.forward_s,
            "sample": lambda s: s.sample_s,
            "update": lambda s: s.update_s,
            "send": lambda s: s.send_s,
        },
    ),
    counter(
        "model_read_bytes_total",
        "Estimated bytes that forward passes had to read from memory: weights once per step, keys and values once per "
        "sequence. Divided by the seconds of the phase forward (and, on a GPU, sample), it is the bandwidth in use.",
        lambda s: s.read_bytes,
    ),
    counter(
        "model_written_bytes_total",
        "Estimated bytes that forward passes had to write to memory: keys, values and states.",
        lambda s: s.write_bytes,
    ),
    counter("model_flops_total", "Estimated multiplications and additions of forward passes.", lambda s: s.flops),
)
