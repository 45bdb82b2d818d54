"""Write a GGUF file with random weights and the proportions of a published model, by llama.cpp's own converter.

    pip install --target packages sentencepiece && cp -r $LLAMA/conversion $LLAMA/gguf-py/gguf packages
    PYTHONPATH=.:packages python -m benchmarks.random_gguf granite-4-h-1b out.gguf --tokenizer smollm2.gguf
    llama-quantize out.gguf out-q4.gguf Q4_K_M

Speed does not depend on the values of weights, so that a model is measured here whose weights are not at hand. The
vocabulary is that of `--tokenizer`, smaller than the published one.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import conversion
import gguf
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma4TextConfig,
    GraniteMoeHybridConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)


def _granite(**sizes: int) -> PretrainedConfig:
    """Granite 4.0 H 1B without experts: four of 40 layers have attention, without positions."""
    return GraniteMoeHybridConfig(
        **sizes,
        hidden_size=1536,
        shared_intermediate_size=4096,
        intermediate_size=4096,
        num_hidden_layers=40,
        layer_types=["attention" if layer in {5, 15, 25, 35} else "mamba" for layer in range(40)],
        num_attention_heads=12,
        num_key_value_heads=4,
        num_local_experts=0,
        num_experts_per_tok=0,
        position_embedding_type="nope",
        mamba_n_heads=48,
        mamba_d_head=64,
        mamba_d_state=128,
        mamba_n_groups=1,
        mamba_expand=2,
        attention_multiplier=0.0078125,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        logits_scaling=6.0,
        max_position_embeddings=131072,
        tie_word_embeddings=True,
    )


def _gemma4(**sizes: int) -> PretrainedConfig:
    """Gemma 4 E2B: the last 20 of 35 layers reuse keys and values."""
    return Gemma4TextConfig(
        **sizes,
        vocab_size_per_layer_input=sizes["vocab_size"],
        hidden_size=1536,
        intermediate_size=6144,
        use_double_wide_mlp=True,
        num_hidden_layers=35,
        num_kv_shared_layers=20,
        layer_types=["full_attention" if layer % 5 == 4 else "sliding_attention" for layer in range(35)],
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=256,
        global_head_dim=512,
        sliding_window=512,
        hidden_size_per_layer_input=256,
        final_logit_softcapping=30.0,
        max_position_embeddings=131072,
    )


SHAPES: dict[str, Callable[..., PretrainedConfig]] = {"granite-4-h-1b": _granite, "gemma-4-e2b": _gemma4}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.random_gguf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path, help="the GGUF file, in 16 bits")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a GGUF file whose vocabulary is taken")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.tokenizer.parent, gguf_file=options.tokenizer.name)
    if options.shape.startswith("gemma"):
        tokenizer = _with_visible_spaces(tokenizer)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = AutoModelForCausalLM.from_config(SHAPES[options.shape](vocab_size=len(tokenizer), **ends))
    with tempfile.TemporaryDirectory(dir=options.out.parent) as name:
        folder = Path(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _use_published_names(folder / "config.json")
        _convert(folder, options.out)


def _with_visible_spaces(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Rewrite a vocabulary of bytes in Gemma 4's form: spaces as U+2581, and tokens of single bytes."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]

    def shown(text: str) -> str:
        return text.replace("\u0120", "\u2581").replace("\u010a", "\n")

    words = {shown(word): number for word, number in model["vocab"].items()}
    words |= {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    merges = [(shown(first), shown(second)) for first, second in model["merges"]]
    rewritten = Tokenizer(models.BPE(words, merges, byte_fallback=True, fuse_unk=True))
    rewritten.normalizer = normalizers.Replace(" ", "\u2581")
    rewritten.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    specials = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token, "pad_token": tokenizer.eos_token}
    return PreTrainedTokenizerFast(tokenizer_object=rewritten, chat_template=tokenizer.chat_template, **specials)


def _use_published_names(path: Path) -> None:
    fields = json.loads(path.read_text())
    if fields["model_type"] == "granitemoehybrid":
        published = {"linear_attention": "mamba", "full_attention": "attention"}
        fields["layer_types"] = [published.get(kind, kind) for kind in fields["layer_types"]]
        path.write_text(json.dumps(fields))


def _convert(folder: Path, out: Path) -> None:
    conversion.base.AutoConfig = None  # config.json as it is
    hparams = conversion.ModelBase.load_hparams(folder, False)
    kind = conversion.get_model_class(conversion.get_model_architecture(hparams, conversion.ModelType.TEXT))
    conversion.TextModel.get_vocab_base_pre = lambda *_: "smollm"  # it tells vocabularies by their hash
    kind(folder, gguf.LlamaFileType.MOSTLY_BF16, out).write()


if __name__ == "__main__":
    main()
