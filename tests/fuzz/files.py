"""Mutated files, templates, texts and messages: each reader takes them, or raises the error that it documents."""

import json
import random
import socket
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.child_processes.frames import MAX_FRAME_BYTES, encode_frame
from engine.errors import InvalidRequest, StartupError
from engine.kv_tiers.block_file import BlockFileError, packed_header, read_block
from engine.protocol import AbortReason, AbortRequest, AddRequest, EngineRequest, SamplingParams, TokenizerInfo
from models.checkpoints.gguf.checkpoint import GGUFCheckpoint
from models.checkpoints.safetensors import SafetensorsCheckpoint
from models.config.hf_config import read_json_config
from models.errors import ModelError
from models.families.multimodal import find_family
from models.loading.open import open_model
from models.sources.resolve import ModelFiles
from models.tokenizer.load import load_tokenizer_assets
from server.config.server import ServerConfig
from server.text.chat_templates.direct_templates import DirectTemplates
from server.text.workers import TextWorkers
from server.text_model import build_text_model
from server.tools.registry import FORMATS, named_format
from tests.fuzz.gguf_model import gguf_model
from tests.fuzz.mutations import mutate_bytes, mutate_text, mutate_value
from tests.helpers import damaged_gguf, damaged_safetensors
from tests.helpers.chat_templates import OPENED_THOUGHT, TOOL_TEMPLATE, TWO_CALLS
from tests.helpers.engine_socket import receive_to_engine
from tests.helpers.fake_client import CHAT_TEMPLATE, byte_tokenizer
from tests.server.tools.parsing import parse

_CONFIGS: tuple[dict[str, Any], ...] = tuple(
    {
        "architectures": [architecture],
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 99,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "sliding_window": 16,
        "layer_types": ["full_attention", "sliding_attention"],
        **own,
    }
    for architecture, own in {
        "LlamaForCausalLM": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}},
        "Qwen3MoeForCausalLM": {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        },
        "Gemma3ForCausalLM": {"query_pre_attn_scalar": 16, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"},
        "GptOssForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
        "DeepseekV3ForCausalLM": {
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
        },
        "Lfm2ForCausalLM": {"conv_L_cache": 3, "layer_types": ["conv", "full_attention"]},
    }.items()
)
_GGUF_MODEL = gguf_model()
_TEMPLATES = (CHAT_TEMPLATE, TOOL_TEMPLATE, OPENED_THOUGHT, TWO_CALLS)
_CALL = {"name": "look", "arguments": {"city": 'Rom"e\\', "days": [1, {"a": None}]}}
_ANSWERS = (
    f"Let me see. <tool_call>\n{json.dumps(_CALL)}\n</tool_call> and",
    f"[TOOL_CALLS][{json.dumps(_CALL)}]",
    '[look(city="Rome", days=[1, 2]), look()]',
    '<|python_tag|>{"name": "look", "parameters": {"city": "Rome"}}',
    "<function=look>\n<parameter=city>\nRome\n</parameter>\n</function>",
    '<|channel|>commentary to=functions.look<|message|>{"city": "Rome"}<|call|>',
)
_REQUEST = EngineRequest(
    id="a", prompt_ids=[1, 2, 3], sampling=SamplingParams(max_tokens=5, logit_bias={3: 1.0}), arrival_s=1.0
)
_CONTENT, _FINGERPRINT, _KEY = bytes(range(200)), bytes(16), b"k" * 18
_BLOCK_FILE = packed_header(_FINGERPRINT, _KEY, _CONTENT) + _CONTENT
_FRAMES = (
    encode_frame(AddRequest(_REQUEST)),
    encode_frame(AbortRequest("a", AbortReason.CLIENT_GONE)),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A reader, what it may raise, and an input of it that is mutated already."""

    read: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    draw: Callable[[random.Random], bytes]


def _of_folder(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """A reader of a folder with a file of this content."""

    def read_folder(data: bytes) -> object:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(data)
            return read(Path(folder))

    return read_folder


def _read_config(folder: Path) -> object:
    config = read_json_config(folder / "config.json")
    family, text = find_family(config)
    return family.describe(text)


def _read_gguf_model(folder: Path) -> object:
    """All but the weights."""
    files = ModelFiles(None, (folder / "a.gguf",), str(folder))
    model = open_model(files)
    return load_tokenizer_assets(files, model.config, model.gguf_metadata)


def _read_tokenizer(folder: Path) -> object:
    (folder / "config.json").write_text('{"eos_token_id": 2}')
    return load_tokenizer_assets(ModelFiles(folder, (), str(folder)), read_json_config(folder / "config.json"))


def _read_template(data: bytes) -> object:
    """What a start does with a template, and one rendering."""
    info = TokenizerInfo(
        tokenizer_json=byte_tokenizer(),
        chat_template=data.decode("utf-8", "replace"),
        special_tokens={"bos_token": "<|bos|>", "eos_token": "<|im_end|>"},
        bos_token_id=None,
        eos_token_ids=[],
        add_bos_token=False,
    )
    model = build_text_model(info, ServerConfig(), TextWorkers(), DirectTemplates())
    return model.chat and model.chat.template.render([{"role": "user", "content": "hi"}])


def _read_answers(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for name in FORMATS:
        parse(named_format(name), text, {"look"}, range(0, len(text), 7))


def _read_frames(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        ours.send(data[:60_000])
        ours.shutdown(socket.SHUT_WR)
        while receive_to_engine(theirs) is not None:
            pass


def _read_block(folder: Path) -> None:
    assert read_block(folder / "a.kv", _FINGERPRINT, _KEY, len(_CONTENT), used_ns=0) == _CONTENT


def _frame(rng: random.Random) -> bytes:
    """Mostly the payload is mutated and the length is right; no longer one is announced than is read into memory."""
    frame = rng.choice(_FRAMES)
    if rng.random() < 0.2:
        data = mutate_bytes(rng, frame)
        (length,) = struct.unpack("<I", data[:4].ljust(4, b"\0"))
        return data if length > MAX_FRAME_BYTES or length < 1 << 20 else frame
    payload = mutate_bytes(rng, frame[4:])
    return struct.pack("<I", len(payload)) + payload


TARGETS: dict[str, Target] = {
    "gguf": Target(
        _of_folder(lambda folder: GGUFCheckpoint([folder / "a.gguf"]), "a.gguf"),
        (ModelError,),
        lambda rng: mutate_bytes(rng, rng.choice((damaged_gguf.SOUND, damaged_gguf.SOUND + bytes(64)))),
    ),
    "gguf model": Target(
        _of_folder(_read_gguf_model, "a.gguf"), (ModelError,), lambda rng: mutate_bytes(rng, _GGUF_MODEL)
    ),
    "safetensors": Target(
        _of_folder(SafetensorsCheckpoint, "model.safetensors"),
        (ModelError,),
        lambda rng: _safetensors(rng),
    ),
    "config": Target(
        _of_folder(_read_config, "config.json"), (ModelError,), lambda rng: mutate_value(rng, rng.choice(_CONFIGS))
    ),
    "tokenizer": Target(_of_folder(_read_tokenizer, "tokenizer.json"), (ModelError,), lambda rng: _tokenizer(rng)),
    "template": Target(
        _read_template, (StartupError, InvalidRequest), lambda rng: mutate_text(rng, rng.choice(_TEMPLATES)).encode()
    ),
    "answers": Target(_read_answers, (), lambda rng: mutate_text(rng, rng.choice(_ANSWERS)).encode()),
    "block file": Target(
        _of_folder(_read_block, "a.kv"), (BlockFileError,), lambda rng: mutate_bytes(rng, _BLOCK_FILE)
    ),
    "frames": Target(_read_frames, (msgspec.DecodeError, InvalidRequest), _frame),
}


def _safetensors(rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(rng, damaged_safetensors.SOUND)
    header = {"a": damaged_safetensors.f32(0, 8, [2]), "b": damaged_safetensors.f32(8, 16, [2])}
    return damaged_safetensors.raw_file(mutate_value(rng, header), b"\0" * 16)


def _tokenizer(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return mutate_bytes(rng, byte_tokenizer())
    return mutate_value(rng, json.loads(byte_tokenizer()))
