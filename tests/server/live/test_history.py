"""What the dashboard keeps of the last hour and day: in bounded memory, by key, of all models together."""

import pytest

from engine.protocol import StepStats
from server.live.answer_means import AnswerMeans
from server.live.history import MAX_KEYS, NO_KEY, NUM_MINUTES, NUM_TEN_MINUTES, OTHER_KEYS, History
from server.live.machine import MachineFigures
from server.live.pace import Pace, PredictedSteps
from server.metrics.request_record import RequestRecord


class _Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def _record(
    key: str | None = "ann", status: int = 200, output_tokens: int = 5, prompt_tokens: int = 20
) -> RequestRecord:
    record = RequestRecord("r", "POST", lambda _: None)
    record.key_name, record.status, record.output_tokens = key, status, output_tokens
    record.counted_prompt_tokens, record.cached_tokens, record.has_started = prompt_tokens, 10, True
    return record


def test_steps_and_requests_are_counted_in_the_hour_and_in_the_day() -> None:
    history = History(_Clock())
    history.on_step(StepStats(prefill_tokens=7, decode_tokens=2, batch_decode_tokens=3, running=2, waiting=1))
    history.on_step(StepStats(decode_tokens=2, running=1))
    history.on_step(StepStats(pooled_tokens=5, pooled_requests=1))
    history.on_over(_record())
    history.on_over(_record(status=400))
    history.on_over(_record(key=None, status=500))
    (minute,), (ten_minutes,) = history.hour(), history.day()
    for bucket in (minute, ten_minutes):
        assert (bucket.read_tokens, bucket.written_tokens, bucket.most_running, bucket.most_waiting) == (12, 7, 2, 1)
        assert (bucket.requests, bucket.refused, bucket.failed) == (3, 1, 1)
        assert {key: (use.requests, use.refused) for key, use in bucket.keys.items()} == {"ann": (2, 1), "": (1, 1)}
        assert (bucket.keys["ann"].prompt_tokens, bucket.keys["ann"].output_tokens) == (40, 10)


def test_lines_of_batches_are_counted_apart_by_the_key_of_their_batch() -> None:
    history = History(_Clock())
    history.on_over(_record())
    for status, is_usage in ((200, True), (400, True), (503, False)):  # the last one waits, and is tried again
        line = _record(status=status)
        line.is_batch_line, line.is_usage = True, is_usage
        history.on_over(line)
    (bucket,) = history.hour()
    assert (bucket.requests, bucket.refused) == (1, 0)
    assert bucket.keys["ann"].requests == 1
    assert (bucket.batches["ann"].requests, bucket.batches["ann"].refused) == (2, 1)
    assert list(history.failures) == []


def test_what_counts_as_refused_or_failed_is_listed() -> None:
    history = History(_Clock())
    for method, status, key in (("POST", 200, "ann"), ("POST", 404, "ann"), ("GET", 404, "ann"), ("POST", 401, None)):
        record = RequestRecord("r", method, lambda _: None)
        record.key_name, record.status, record.route = key, status, "/v1/completions"
        if status >= 400:
            record.note_error(status, "not_found")
        history.on_over(record)
    late = _record()
    late.finish_reasons = ["timeout"]
    history.on_over(late)
    (bucket,) = history.hour()
    assert (bucket.requests, bucket.refused, bucket.failed) == (4, 2, 1)
    assert {name: use.refused for name, use in bucket.keys.items()} == {"ann": 2, NO_KEY: 1}
    assert [(each.status, each.error, each.key) for each in history.failures] == [
        (404, "not_found", "ann"),
        (401, "not_found", NO_KEY),
        (200, "timeout", "ann"),
    ]
    for _ in range(200):
        history.on_over(_record(status=500))
    assert len(history.failures) == 100


def test_requests_with_an_invalid_key_count_whatever_they_ask() -> None:
    history = History(_Clock())
    for route, has_key in (("/v1/models", True), ("/dashboard/server", False), ("", True)):
        record = RequestRecord("r", "GET", lambda _: None)
        record.status, record.route, record.has_key = 401, route, has_key
        record.note_error(401, "invalid_api_key")
        history.on_over(record)
    (bucket,) = history.hour()
    assert (bucket.requests, bucket.refused, bucket.keys[NO_KEY].refused) == (2, 2, 2)
    assert [each.route for each in history.failures] == ["/v1/models", ""]


def test_a_program_with_an_old_key_displaces_no_failures_of_others() -> None:
    clock = _Clock()
    history = History(clock)
    history.on_over(_record(status=500))
    for number in range(300):
        clock.now_s += 15
        record = RequestRecord(f"r{number}", "GET", lambda _: None)
        record.status, record.route, record.has_key = 401, ("/metrics", "/v1/models")[number % 2], True
        record.note_error(401, "invalid_api_key")
        history.on_over(record)
    assert sum(bucket.keys[NO_KEY].refused for bucket in history.day()) == 300
    assert [(each.id, each.status) for each in history.failures] == [("r", 500), ("r298", 401), ("r299", 401)]


def test_old_buckets_are_dropped() -> None:
    clock = _Clock()
    history = History(clock)
    for _ in range(3 * NUM_TEN_MINUTES):
        history.on_step(StepStats(decode_tokens=1))
        clock.now_s += 600
    assert len(history.day()) <= NUM_TEN_MINUTES
    assert len(history.hour()) <= NUM_MINUTES
    clock.now_s += 3600
    assert history.hour() == []
    assert history.day()
    clock.now_s += 86400
    assert history.day() == []


def test_many_keys_are_counted_together() -> None:
    history = History(_Clock())
    for number in range(MAX_KEYS + 10):
        history.on_over(_record(key=f"key-{number}"))
    (bucket,) = history.hour()
    assert len(bucket.keys) == MAX_KEYS + 1
    assert bucket.keys[OTHER_KEYS].requests == 10


def test_a_clock_that_is_set_back_counts_in_the_last_bucket() -> None:
    clock = _Clock()
    history = History(clock)
    history.on_step(StepStats(decode_tokens=1))
    clock.now_s -= 500
    history.on_step(StepStats(decode_tokens=1))
    assert [bucket.written_tokens for bucket in history.hour()] == [2]


def test_the_machines_highest_load_is_kept() -> None:
    history = History(_Clock())
    for busy, free in ((0.5, 75), (None, 25), (0.25, 50)):
        history.on_machine(
            MachineFigures(
                num_cores=2,
                cpu_busy=busy,
                cpu_own=busy,
                memory_total=100,
                memory_free=free,
                memory_own=None,
                swap_total=None,
                swap_used=None,
                disks=[],
            )
        )
    (bucket,) = history.hour()
    assert (bucket.cpu_busy, bucket.memory_used) == (0.5, 0.75)


def test_happenings_are_bounded() -> None:
    history = History(_Clock())
    for number in range(1000):
        history.note("engine_ended", "demo", str(number))
    assert len(history.happenings) == 200
    assert history.happenings[-1].detail == "999"


def test_the_pace_is_known_by_the_number_of_requests() -> None:
    pace = Pace()
    assert (pace.step_s(1), pace.most_within(1.0)) == (None, 0)
    pace.on_step(StepStats(prefill_tokens=100, running=2, step_s=9.0))  # two prompts alone
    for running, after, step_s in ((2, 2, 0.04), (2, 4, 0.06), (4, 0, 0.2)):  # the last step ends all four
        pace.on_step(StepStats(decode_tokens=running, running=after, step_s=step_s))
    assert pace.step_s(2) == 0.04 + 0.05 * 0.02
    assert pace.step_s(3) == pace.step_s(2) * 3 / 2
    assert (pace.step_s(1), pace.step_s(4)) == (None, 0.2)
    assert (pace.most_within(0.1), pace.most_within(0.3)) == (2, 4)


def test_a_new_engine_has_no_requests_of_the_one_before() -> None:
    pace = Pace()
    pace.on_step(StepStats(prefill_tokens=9, running=4))
    pace.on_step(StepStats(waiting=4))  # the engine has ended
    pace.on_step(StepStats(prefill_tokens=9, decode_tokens=1, running=1, step_s=9.0))
    assert pace.most_within(10.0) == 0


def test_the_rate_of_batches_counts_their_steps_alone() -> None:
    pace = Pace()
    assert pace.batch_tokens_per_s == 0.0
    pace.on_step(StepStats(batch_decode_tokens=4, running_batch=4, step_s=0.02))
    pace.on_step(StepStats(decode_tokens=1, running=1, paused_batch=4, step_s=9.0))
    assert pace.batch_tokens_per_s == pytest.approx(200.0)


def test_the_pauses_of_a_batch_are_measured_while_it_runs() -> None:
    clock = _Clock()
    pace = Pace(clock)
    assert pace.run_of("b") is None
    pace.on_step(StepStats(running=1))
    clock.now_s += 100  # before it runs
    with pace.running("b"):
        clock.now_s += 10
        assert pace.run_of("b") == (10.0, 10.0)
        pace.on_step(StepStats(running_batch=1))
        clock.now_s += 60  # of one line, whose answer is not stored yet
        assert pace.run_of("b") == (70.0, 10.0)
        pace.on_step(StepStats(waiting=1, paused_batch=1))
        clock.now_s += 5
        assert pace.run_of("b") == (75.0, 15.0)
    assert pace.run_of("b") is None


def test_the_rate_of_texts_is_of_the_last_ten_seconds() -> None:
    clock = _Clock()
    pace = Pace(clock)
    assert pace.texts_per_s == 0.0
    for _ in range(30):
        pace.on_step(StepStats(pooled_requests=4, pooled_tokens=40))
        clock.now_s += 0.5
    assert pace.texts_per_s == pytest.approx(8.0, rel=0.11)
    clock.now_s += 10
    assert pace.texts_per_s == 0.0


def test_the_means_are_of_the_last_five_minutes_with_answers() -> None:
    clock = _Clock()
    means = AnswerMeans(clock)
    assert (means.seconds, means.prompt_tokens, means.output_tokens) == (None, None, None)
    means.add(_record(output_tokens=500))
    clock.now_s += 300
    means.add(_record(output_tokens=5, prompt_tokens=30))
    clock.now_s += 180
    means.add(_record(output_tokens=15))
    means.add(_record(status=400))
    means.add(_record(output_tokens=0))
    assert (means.prompt_tokens, means.output_tokens) == ((30 + 20) / 2, (5 + 15) / 2)
    assert means.seconds is not None
    clock.now_s += 3000
    assert (means.prompt_tokens, means.output_tokens) == ((30 + 20) / 2, (5 + 15) / 2)
    clock.now_s += 3600
    assert (means.seconds, means.prompt_tokens, means.output_tokens) == (None, None, None)


def test_predicted_steps_are_of_the_last_hour() -> None:
    clock = _Clock()
    pace = Pace(clock)
    pace.on_step(StepStats(predicted_s=5.0, measured_s=1.0))
    clock.now_s += 3000
    pace.on_step(StepStats(predicted_s=0.5, measured_s=1.0))
    pace.on_step(StepStats(predicted_s=1.75, measured_s=1.5))
    pace.on_step(StepStats(step_s=1.0))
    assert pace.predicted_steps == PredictedSteps(7.25, 3.5, 4.75)
    clock.now_s += 1200
    assert pace.predicted_steps == PredictedSteps(2.25, 2.5, 0.75)
    clock.now_s += 3600
    assert pace.predicted_steps == PredictedSteps()
