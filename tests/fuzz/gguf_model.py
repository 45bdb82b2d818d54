"""A small GGUF file with all that a model needs to be described: sizes, a tokenizer, a template and some tensors."""

import struct

from tests.helpers.damaged_gguf import ARRAY, FLOAT32, STRING, UINT32, entry, file_bytes, tensor, text

_INT32 = 5
_TOKENS = [*map(chr, range(33, 127)), "Ġ", "Ċ", "ab", "<|im_start|>", "<|im_end|>"]
_SIZES = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 8,
    "feed_forward_length": 16,
    "attention.head_count": 2,
    "attention.head_count_kv": 1,
    "vocab_size": len(_TOKENS),
}
_TEXTS = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.chat_template": "{{ messages }}",
}
_TENSORS = {"token_embd.weight": (8, len(_TOKENS)), "output_norm.weight": (8,), "blk.0.attn_q.weight": (8, 8)}


def gguf_model() -> bytes:
    entries = [entry(key, STRING, text(value)) for key, value in _TEXTS.items()]
    entries += [entry(f"llama.{key}", UINT32, struct.pack("<I", value)) for key, value in _SIZES.items()]
    entries += [
        entry("llama.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        entry("tokenizer.ggml.tokens", ARRAY, _strings(_TOKENS)),
        entry("tokenizer.ggml.token_type", ARRAY, _integers([1] * (len(_TOKENS) - 2) + [3, 3])),
        entry("tokenizer.ggml.merges", ARRAY, _strings(["a b"])),
        entry("tokenizer.ggml.eos_token_id", UINT32, struct.pack("<I", len(_TOKENS) - 1)),
    ]
    tensors, offset = [], 0
    for name, dims in _TENSORS.items():
        tensors.append(tensor(name, dims, offset=offset))
        num_values = dims[0] * (dims[1] if len(dims) > 1 else 1)
        offset += -(-4 * num_values // 32) * 32
    return file_bytes(entries, tensors, bytes(offset))


def _strings(values: list[str]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def _integers(values: list[int]) -> bytes:
    return struct.pack(f"<IQ{len(values)}i", _INT32, len(values), *values)
