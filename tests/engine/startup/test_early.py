"""Option faults that are told before torch is imported."""

from typing import Any

import pytest

from engine.config import Device, EngineConfig
from engine.errors import OptionError
from engine.startup.early import check_options

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hf_overrides": "{"}, "--hf-overrides is not JSON"),
        ({"rope_scaling": "[]"}, "--rope-scaling must be a JSON object"),
        ({"speculative_config": '{"modle": 1}'}, "--speculative-config has the key 'modle'"),
        ({"threads": 1_000_000, "device": Device.CPU}, "--threads is 1,000,000"),
        ({"kv_offload_dir": "/dev/null"}, r"'/dev/null' cannot be used \(it is a file\); give a folder"),
        ({"kv_offload_dir": " "}, "--kv-offload-dir is empty; give a folder"),
    ],
)
def test_what_is_wrong_with_any_model_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        check_options(EngineConfig(**options))


def test_the_threads_of_a_gpus_host_are_not_judged() -> None:
    check_options(EngineConfig(threads=1_000_000))
