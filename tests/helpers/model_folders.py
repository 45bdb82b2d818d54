"""A tiny random model in a folder of its own, with a tokenizer that takes any text."""

import json
from pathlib import Path

import torch
from transformers import PretrainedConfig

from tests.helpers.checkpoints import llama_config, random_model
from tests.helpers.tokenizers import byte_level_json

VOCAB_SIZE = 266  # of byte_level_json


def write_model_folder(folder: Path, config: PretrainedConfig | None = None) -> Path:
    """Weights in bf16, configuration and tokenizer, in Hugging Face layout."""
    model = random_model(config or llama_config(vocab_size=VOCAB_SIZE)).to(torch.bfloat16)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(byte_level_json())
    tokenizer = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder
