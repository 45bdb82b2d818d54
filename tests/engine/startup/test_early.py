"""Option faults that are told before torch is imported."""

import importlib.util
from typing import Any

import pytest

from engine.config import Device, EngineConfig
from engine.errors import OptionError, StartupError
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


def test_events_without_their_library_are_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StartupError, match=r"--kv-events needs .*: pip install 'headrace\[events\]'$"):
        check_options(EngineConfig(kv_events="tcp://127.0.0.1:5557"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kv_events": "127.0.0.1:5557"}, r"--kv-events is '127.0.0.1:5557'; it must be tcp://HOST:PORT"),
        ({"kv_events": "tcp://*:99999"}, r"'tcp://\*:99999'; .* a port is at most 65535"),
        ({"kv_events": "tcp://*:1", "kv_events_replay": "tcp://*"}, r"--kv-events-replay is 'tcp://\*'; it must be"),
        ({"kv_events": "tcp://*:1", "kv_events_replay": "tcp://*:1"}, r"both tcp://\*:1; give two ports"),
        ({"kv_events": "tcp://*:1", "enable_prefix_caching": False}, "--kv-events publishes what is cached"),
        ({"kv_events_replay": "tcp://*:1"}, r"--kv-events-replay is tcp://\*:1, but no events are published"),
        ({"kv_events_topic": "a"}, "--kv-events-topic is 'a', but no events are published"),
    ],
)
def test_options_of_events_that_contradict_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(StartupError, match=words):
        EngineConfig(**options)


def test_the_threads_of_a_gpus_host_are_not_judged() -> None:
    check_options(EngineConfig(threads=1_000_000))
