"""check_draft: which vocabularies a draft model may have."""

import json
from pathlib import Path

import pytest

from engine.errors import StartupError
from engine.spec.draft_check import check_draft
from models.loaded import LoadedModel
from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.loaded import load_random

TOKENS = [f"t{n}" for n in range(100)]
CONTROL = {100: "<|begin|>", 101: "<|end|>"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(llama_config()).save_pretrained(folder)
    return folder


def _model(
    folder: Path, tokens: list[str] | dict[str, int] = TOKENS, added: dict[int, str] = CONTROL, *, unigram: bool = False
) -> LoadedModel:
    vocabulary = tokens if isinstance(tokens, dict) else {token: n for n, token in enumerate(tokens)}
    tokenizer = {
        "model": {"vocab": [[token, -1.0] for token in vocabulary] if unigram else vocabulary},
        "added_tokens": [{"id": token_id, "content": token} for token_id, token in added.items()],
    }
    return load_random(folder, tokenizer_json=json.dumps(tokenizer).encode())


def test_equal_vocabularies_will_do(folder: Path) -> None:
    check_draft(_model(folder), _model(folder))
    check_draft(_model(folder), _model(folder, unigram=True))


def test_padding_counts_for_nothing(folder: Path) -> None:
    padded = {token: n for n, token in enumerate(TOKENS)} | {f"[PAD{n}]": n for n in range(102, 110)}
    check_draft(_model(folder), _model(folder, padded))
    check_draft(_model(folder, padded), _model(folder))


@pytest.mark.parametrize("added", [{}, {100: "<|begin|>"}, {**CONTROL, 102: "<|tool|>"}])
def test_either_may_lack_added_tokens(folder: Path, added: dict[int, str]) -> None:
    check_draft(_model(folder), _model(folder, added=added))
    check_draft(_model(folder, added=added), _model(folder))


def test_another_token_under_one_id_is_refused_with_both_names(folder: Path) -> None:
    swapped = [*TOKENS[:40], "t41", "t40", *TOKENS[42:]]
    with pytest.raises(StartupError, match=r"of 102 and 102 tokens, 100 have the same id \(token 40 is 't40' in"):
        check_draft(_model(folder), _model(folder, swapped))


def test_another_control_token_under_one_id_is_refused(folder: Path) -> None:
    with pytest.raises(StartupError, match=r"token 101 is '<\|end\|>' in the model and '<\|stop\|>' in the draft"):
        check_draft(_model(folder), _model(folder, added={**CONTROL, 101: "<|stop|>"}))


@pytest.mark.parametrize("count", [99, 60])
def test_a_trained_vocabulary_with_fewer_tokens_is_refused(folder: Path, count: int) -> None:
    with pytest.raises(StartupError, match=rf"token {count} is 't{count}' in the model and absent in the draft"):
        check_draft(_model(folder), _model(folder, TOKENS[:count]))
    with pytest.raises(StartupError, match=rf"token {count} is absent in the model and 't{count}' in the draft"):
        check_draft(_model(folder, TOKENS[:count]), _model(folder))
