"""Names of fine-tuning jobs and of what they make: `ftjob-ID` and `ft:BASE:headrace:SUFFIX:ID`, as OpenAI's are."""

import re
import secrets
import string

from server.schemas.finetune_answers import ORGANIZATION

JOB_PREFIX = "ftjob-"
_ALPHABET = string.ascii_letters + string.digits
_JOB_CHARACTERS, _NAME_CHARACTERS = 24, 8
_CHECKPOINT = ":ckpt-step-"
_NOT_IN_BASES = re.compile(r"[^A-Za-z0-9._-]+")


def new_job_id() -> str:
    return JOB_PREFIX + _random(_JOB_CHARACTERS)


def new_model_name(base: str, suffix: str | None) -> str:
    """base: the name that the model is served under; of a path, the file or folder counts. suffix: one that the schema
    has checked, so that a name has five parts."""
    return f"ft:{_base_part(base)}:{ORGANIZATION}:{suffix or ''}:{_random(_NAME_CHARACTERS)}"


def checkpoint_name(model_name: str, step: int) -> str:
    return f"{model_name}{_CHECKPOINT}{step}"


def split_checkpoint_name(name: str) -> tuple[str, int | None]:
    """The model's name, and the step if this is a checkpoint's."""
    model_name, found, digits = name.rpartition(_CHECKPOINT)
    if not found or not (digits.isascii() and digits.isdecimal()) or str(int(digits[:18])) != digits:
        return name, None
    return model_name, int(digits)


def event_id(job_id: str, number: int) -> str:
    return f"ftevent-{job_id.removeprefix(JOB_PREFIX)}-{number}"


def event_number(job_id: str, given: str) -> int | None:
    """Of an event of this job; None for what is no id of one."""
    digits = given.removeprefix(event_id(job_id, 0)[:-1])
    number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None
    return number if number is not None and event_id(job_id, number) == given else None


def checkpoint_id(job_id: str, step: int) -> str:
    return f"ftckpt_{job_id.removeprefix(JOB_PREFIX)}_{step}"


def _base_part(base: str) -> str:
    last = base.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return _NOT_IN_BASES.sub("-", last).strip("-") or "model"


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
