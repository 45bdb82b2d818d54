"""Names of jobs and of what they make: they can be read back, and none is another's."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.finetuning.jobs.record import (
    checkpoint_id,
    event_id,
    event_number,
    new_job_id,
    new_model_name,
    split_checkpoint_name,
)

pytestmark = pytest.mark.fast

SUFFIXES = st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


@given(st.text(min_size=1), SUFFIXES)
def test_a_name_has_five_parts_whatever_the_base_is_called(base: str, suffix: str | None) -> None:
    name = new_model_name(base, suffix)
    ft, part, organization, given_suffix, own = name.split(":")
    assert (ft, organization, given_suffix) == ("ft", "headrace", suffix or "")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", part)
    assert re.fullmatch(r"[A-Za-z0-9]{8}", own)


@pytest.mark.parametrize(
    ("base", "part"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"),
        ("/models/SmolLM2-135M-Instruct-Q4_1.gguf", "SmolLM2-135M-Instruct-Q4_1"),
        ("./my model/", "my-model"),
        ("qwen3:0.6b", "qwen3-0.6b"),
        ("/", "model"),
    ],
)
def test_a_name_has_the_last_part_of_the_bases(base: str, part: str) -> None:
    assert new_model_name(base, "demo").startswith(f"ft:{part}:headrace:demo:")


@given(st.text(min_size=1), SUFFIXES, st.integers(min_value=0, max_value=10**12))
def test_a_checkpoints_name_is_read_back(base: str, suffix: str | None, step: int) -> None:
    name = new_model_name(base, suffix)
    assert split_checkpoint_name(name) == (name, None)
    assert split_checkpoint_name(f"{name}:ckpt-step-{step}") == (name, step)


@given(st.text())
def test_any_text_is_some_name(text: str) -> None:
    name, step = split_checkpoint_name(text)
    assert text == (name if step is None else f"{name}:ckpt-step-{step}")


@given(st.integers(min_value=0, max_value=10**12), st.text())
def test_an_event_is_found_by_its_id_alone(number: int, other: str) -> None:
    job_id = new_job_id()
    assert event_number(job_id, event_id(job_id, number)) == number
    assert event_number(new_job_id(), event_id(job_id, number)) is None
    assert event_number(job_id, other) is None
    assert event_number(job_id, f"{event_id(job_id, 0)}{number}") is None


def test_ids_look_like_openais() -> None:
    job_id = new_job_id()
    assert re.fullmatch(r"ftjob-[A-Za-z0-9]{24}", job_id)
    assert event_id(job_id, 7) == f"ftevent-{job_id[6:]}-7"
    assert checkpoint_id(job_id, 20) == f"ftckpt_{job_id[6:]}_20"
    assert new_job_id() != job_id
