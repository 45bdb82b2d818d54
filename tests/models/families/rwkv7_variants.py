"""Tiny configurations of RWKV-7, for the parity tests."""

from tests.helpers.checkpoints import VOCAB_SIZE
from tests.helpers.rwkv7 import Rwkv7Config


def rwkv7(**changes: object) -> Rwkv7Config:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 3, "head_dim": 16}
    ranks = {"decay_low_rank_dim": 16, "a_low_rank_dim": 32, "v_low_rank_dim": 16, "gate_low_rank_dim": 48}
    return Rwkv7Config(**{**sizes, **ranks, **changes})


RWKV7_VARIANTS = {
    "rwkv7": rwkv7,
    "rwkv7-tied": lambda: rwkv7(
        tie_word_embeddings=True,
        norm_first=False,
        norm_bias=False,
        norm_eps=1e-3,
        head_dim=None,
        num_heads=5,
        hidden_size=60,  # no kernel takes it
        intermediate_size=96,
        hidden_act="gelu",
    ),
}
