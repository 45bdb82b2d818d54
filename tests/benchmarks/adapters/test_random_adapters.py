"""benchmarks/adapters/random_adapters.py: headrace reads what it writes, for both kinds of models."""

from pathlib import Path

from gguf import GGMLQuantizationType

from benchmarks.adapters.random_adapters import write_adapter
from models.adapters.read import read_adapter
from tests.helpers.checkpoints import llama_config, load_folder, load_gguf, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.loaded import as_loaded

LAYERS = {
    f"layers.{index}.{name}" for index in range(2) for name in ("attn.qkv", "attn.out", "mlp.gate_up", "mlp.down")
}


def test_adapters_change_every_matrix_of_attention_and_feed_forward(tmp_path: Path) -> None:
    model = random_model(llama_config())
    model.save_pretrained(tmp_path / "folder")
    write_gguf(model, tmp_path / "model.gguf", GGMLQuantizationType.Q8_0)
    decoders = {
        tmp_path / "folder": load_folder(tmp_path / "folder"),
        tmp_path / "model.gguf": load_gguf([tmp_path / "model.gguf"]),
    }
    digests = set()
    for path, decoder in decoders.items():
        for seed in (0, 1):
            written = write_adapter(path, tmp_path / f"{path.stem}-{seed}", 4, seed)
            adapter = read_adapter(written, as_loaded(decoder, "LlamaForCausalLM"))
            assert adapter.rank == 4
            assert adapter.layers.keys() == LAYERS
            assert all(len(adapter.layers[name].pairs) == 3 for name in LAYERS if name.endswith("qkv"))
            digests.add(adapter.digest)
    assert len(digests) == 4
