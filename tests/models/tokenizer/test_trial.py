"""Tokenizers that would take any memory or time, or fail, and those that models have."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from models.config.hf_config import HFConfig
from models.errors import CheckpointError, ModelError
from models.sources.resolve import ModelFiles
from models.tokenizer import trial
from models.tokenizer.load import load_tokenizer_assets
from tests.helpers.tokenizers import byte_level_json

NFKD = {"type": "NFKD"}
SAD, LIGATURE = "\u0635", "\ufdfa"  # a letter of the 18 that NFKD makes of the ligature
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _replace(old: str, new: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: old}, "content": new}


def _sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def _template(*single: Any, num_ids: int = 1) -> dict[str, Any]:
    bos = {"id": "<s>", "ids": [0] * num_ids, "tokens": ["<s>"] * num_ids}
    pair = [{"Sequence": {"id": each, "type_id": 0}} for each in "AB"]
    return {"type": "TemplateProcessing", "single": list(single), "pair": pair, "special_tokens": {"<s>": bos}}


TEXT, BOS = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 0}}


def _load(folder: Path, **parts: Any) -> str:
    document = {**json.loads(byte_level_json()), **parts}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    assets = load_tokenizer_assets(ModelFiles(folder, (), "m"), HFConfig({}, "config.json"))
    return assets.tokenizer_json.decode()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


STARTED = f"print({trial._STARTED!r}, flush=True)"


def _run_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(trial, "_COMMAND", (*trial._COMMAND[:1], "-c", code))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"normalizer": _sequence(*[_replace("a", "a" * 1000)] * 4)}, "1,000,000,000,000 times as long"),
        ({"normalizer": _sequence(*[_replace("", "x", "Regex")] * 20)}, "1,048,576 times as long"),
        ({"normalizer": _sequence(*[{"type": "ByteLevel"}] * 20)}, "its ByteLevel alone 4 times"),
        ({"normalizer": _sequence(*[NFKD] * 40)}, "has 40 steps; the limit is 32"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 100}}, "101 times as long"),
        ({"normalizer": _sequence(*[NFKD, _replace(SAD, LIGATURE)] * 8)}, "characters from one of"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"}}, "is not base64"),
        (
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\4\0\0\0" * 2).decode()}},
            "precompiled_charsmap points outside itself",
        ),
        ({"normalizer": _replace("(a+)+$", "a", "Regex")}, "retry-limit-in-match"),
        ({"pre_tokenizer": _split("(a+)+$")}, "retry-limit-in-match"),
        ({"pre_tokenizer": _split(r"(x+x+)+y")}, "retry-limit-in-match"),
        ({"pre_tokenizer": _split(r"(\w+\s?)+$")}, "retry-limit-in-match"),
        ({"decoder": {"type": "Sequence", "decoders": [_replace("a", "a" * 1000)] * 4}}, "its decoder can make"),
        ({"post_processor": _template(TEXT, TEXT)}, "repeats a text"),
        ({"post_processor": _template(BOS, TEXT, num_ids=1000)}, "adds 1,000 tokens"),
        (
            {"model": {"type": "WordPiece", "vocab": {}, "unk_token": "?", "max_input_chars_per_word": 10**9}},
            "words of 1,000,000,000 characters",
        ),
    ],
)
def test_a_tokenizer_that_would_take_or_fail_too_much_is_refused(
    tmp_path: Path, parts: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        _load(tmp_path, **parts)
    assert reason in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/tokenizer.json: its ")
    assert re.search("use the tokenizer.json of the original model$|fetch the file again$", str(error.value))


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"normalizer": {"type": "NFC"}, "pre_tokenizer": _split(QWEN)},
        {"pre_tokenizer": _split(r"\s+$")},  # DeepSeek V2's, though its time grows with the square of a run of spaces
        {
            "normalizer": _sequence(
                _replace("``", '"'),
                NFKD,
                {"type": "StripAccents"},
                {"type": "Lowercase"},
                _replace(" {2,}", " ", "Regex"),
            ),
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        },
        {"normalizer": _sequence({"type": "Prepend", "prepend": "▁"}, _replace(" ", "▁"))},
        {"post_processor": _template(BOS, TEXT)},
    ],
)
def test_tokenizers_as_models_have_them_are_read(tmp_path: Path, parts: dict[str, Any]) -> None:
    loaded = json.loads(_load(tmp_path, **parts))
    assert {name: loaded[name] for name in parts} == parts


def test_a_verdict_is_remembered_until_the_parts_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    try_parts = trial._try_in_process
    monkeypatch.setattr(trial, "_try_in_process", lambda *given: tried.append(given[0]) or try_parts(*given))
    for parts in ({}, {}, {"normalizer": NFKD}, {"normalizer": NFKD}):
        _load(tmp_path, **parts)
    assert len(tried) == 2


def test_steps_that_need_too_much_memory_or_time_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass"
    _run_instead(monkeypatch, f"{STARTED}; {endless}")
    with pytest.raises(CheckpointError, match="takes more than 5 s for short texts"):
        _load(tmp_path)
    _run_instead(monkeypatch, f"{STARTED}; import os, sys; sys.stderr.write('x\\nallocation failed\\n'); os.abort()")
    with pytest.raises(
        CheckpointError, match=r"512 MiB .*or fails \(the process .* SIGABRT: allocation failed\); use the"
    ):
        _load(tmp_path)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_library", r"could not be tried .* exit status 1: ModuleNotFoundError: .*'no_such_library'\)"),
        (
            "STARTED; import os; os.kill(os.getpid(), 9)",
            r"interrupted \(.* SIGKILL\), probably .* too little free memory",
        ),
    ],
)
def test_what_keeps_the_trial_from_its_end_is_not_blamed_on_the_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    _run_instead(monkeypatch, code.replace("STARTED", STARTED))
    with pytest.raises(ModelError, match=reason) as error:
        _load(tmp_path)
    assert not isinstance(error.value, CheckpointError)
    assert "original model" not in str(error.value)


def test_the_process_gets_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HEADRACE_API_KEY"):
        monkeypatch.setenv(name, "sesame")
    seen = "print(*(name for name in os.environ if os.environ[name] == 'sesame'), end='')"
    _run_instead(monkeypatch, f"{STARTED}; import os; {seen}")
    _load(tmp_path)
