"""check_draft: which vocabularies a draft model may have."""

import json

import pytest

from engine.draft_model.check import check_draft
from engine.errors import StartupError
from models.tokenizer.assets import TokenizerAssets

pytestmark = pytest.mark.fast

TOKENS = [f"t{n}" for n in range(100)]
CONTROL = {100: "<|begin|>", 101: "<|end|>"}


def _assets(
    tokens: list[str] | dict[str, int] = TOKENS, added: dict[int, str] = CONTROL, *, unigram: bool = False
) -> TokenizerAssets:
    vocabulary = tokens if isinstance(tokens, dict) else {token: n for n, token in enumerate(tokens)}
    tokenizer = {
        "model": {"vocab": [[token, -1.0] for token in vocabulary] if unigram else vocabulary},
        "added_tokens": [{"id": token_id, "content": token} for token_id, token in added.items()],
    }
    return TokenizerAssets(json.dumps(tokenizer).encode(), None, {}, None, [2], False)


def test_equal_vocabularies_will_do() -> None:
    check_draft(_assets(), _assets())
    check_draft(_assets(), _assets(unigram=True))


def test_padding_counts_for_nothing() -> None:
    padded = {token: n for n, token in enumerate(TOKENS)} | {f"[PAD{n}]": n for n in range(102, 110)}
    check_draft(_assets(), _assets(padded))
    check_draft(_assets(padded), _assets())


@pytest.mark.parametrize("added", [{}, {100: "<|begin|>"}, {**CONTROL, 102: "<|tool|>"}])
def test_either_may_lack_added_tokens(added: dict[int, str]) -> None:
    check_draft(_assets(), _assets(added=added))
    check_draft(_assets(added=added), _assets())


def test_another_token_under_one_id_is_refused_with_both_names() -> None:
    swapped = [*TOKENS[:40], "t41", "t40", *TOKENS[42:]]
    with pytest.raises(StartupError, match=r"of 102 and 102 tokens, 100 have the same id \(token 40 is 't40' in"):
        check_draft(_assets(), _assets(swapped))


def test_another_control_token_under_one_id_is_refused() -> None:
    with pytest.raises(StartupError, match=r"token 101 is '<\|end\|>' in the model and '<\|stop\|>' in the draft"):
        check_draft(_assets(), _assets(added={**CONTROL, 101: "<|stop|>"}))


@pytest.mark.parametrize("count", [99, 60])
def test_a_trained_vocabulary_with_fewer_tokens_is_refused(count: int) -> None:
    with pytest.raises(StartupError, match=rf"token {count} is 't{count}' in the model and absent in the draft"):
        check_draft(_assets(), _assets(TOKENS[:count]))
    with pytest.raises(StartupError, match=rf"token {count} is absent in the model and 't{count}' in the draft"):
        check_draft(_assets(TOKENS[:count]), _assets())
