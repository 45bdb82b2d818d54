"""TokenizerAssets: a checkpoint's tokenizer, chat template and special tokens."""

from dataclasses import dataclass, field

FIM_ROLES = ("prefix", "suffix", "middle", "pad", "repository", "file")


@dataclass(frozen=True, slots=True)
class TokenizerAssets:
    """A checkpoint's tokenizer as `tokenizers` JSON, with its chat template and special tokens."""

    tokenizer_json: bytes
    chat_template: str | None
    special_tokens: dict[str, str]  # bos_token, eos_token, pad_token, unk_token, if the checkpoint has them
    bos_token_id: int | None
    eos_token_ids: list[int]  # of config, generation_config and tokenizer together
    add_bos_token: bool  # a plain prompt gets a BOS in front (the post-processor does not add it)
    # The checkpoint's tokens for filling in the middle, by FIM_ROLES; most have none.
    fim_ids: dict[str, int] = field(default_factory=dict)
