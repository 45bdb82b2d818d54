"""check_draft: checks that a draft model has the target's vocabulary."""

import json
from dataclasses import dataclass

from engine.errors import StartupError
from models.tokenizer.assets import TokenizerAssets


def check_draft(target: TokenizerAssets, draft: TokenizerAssets) -> None:
    """Raise StartupError unless the draft model has the same tokens under the same ids as the target.

    Tokens added to only one vocabulary, such as control tokens, are allowed: a target-only token ends the drafting for
    its sequence, and a draft-only token is never accepted.
    """
    ours, theirs = _Vocabulary.of(target), _Vocabulary.of(draft)
    both = ours.tokens.keys() & theirs.tokens.keys()
    different = {token_id for token_id in both if ours.tokens[token_id] != theirs.tokens[token_id]}
    lacking = (ours.tokens.keys() ^ theirs.tokens.keys()) - ours.added_ids - theirs.added_ids
    if not different and not lacking:
        return
    first = min(different or lacking)
    raise StartupError(
        f"the draft model's vocabulary is not the model's: of {len(ours.tokens):,} and {len(theirs.tokens):,} tokens, "
        f"{len(both) - len(different):,} have the same id (token {first} is {ours.name(first)} in the model and "
        f"{theirs.name(first)} in the draft); choose a draft model of the model's own family"
    )


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """Tokens of a tokenizer by id, without padding. added_ids: ids of tokens added to the trained vocabulary."""

    tokens: dict[int, str]
    added_ids: set[int]

    @classmethod
    def of(cls, assets: TokenizerAssets) -> "_Vocabulary":
        tokenizer = json.loads(assets.tokenizer_json)
        vocabulary = tokenizer["model"]["vocab"]
        if isinstance(vocabulary, dict):
            tokens = {token_id: token for token, token_id in vocabulary.items()}
        else:
            tokens = {token_id: token for token_id, (token, *_) in enumerate(vocabulary)}
        added = {each["id"]: each["content"] for each in tokenizer.get("added_tokens", [])}
        real = {token_id: token for token_id, token in (tokens | added).items() if not token.startswith("[PAD")}
        return cls(real, set(added))

    def name(self, token_id: int) -> str:
        return repr(self.tokens[token_id]) if token_id in self.tokens else "absent"
