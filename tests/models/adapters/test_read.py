"""read_adapter: GGUF files, digests, and what is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file, save_file

from models.adapters import place
from models.adapters.gguf import read_gguf_adapter
from models.adapters.read import read_adapter
from models.errors import AdapterError
from models.families.registry import ARCHITECTURES
from models.linear.adapters.adapter import Adapter
from models.linear.linear import Linear
from models.loaded_model import LoadedModel
from tests.helpers.adapters import RandomAdapter, random_adapter
from tests.helpers.checkpoints import llama_config, load_folder, random_model
from tests.helpers.loaded import as_loaded

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("llama")
    random_model(llama_config()).save_pretrained(folder)
    return as_loaded(load_folder(folder))


@pytest.fixture
def adapter() -> RandomAdapter:
    return random_adapter(random_model(llama_config()), rank=3, alpha=6.0)


def _numbers(adapter: Adapter) -> dict[tuple[str, int], tuple[float, torch.Tensor, torch.Tensor]]:
    return {
        (name, pair.first): (pair.scale, pair.a, pair.b)
        for name, layer in adapter.layers.items()
        for pair in layer.pairs
    }


# --- GGUF ------------------------------------------------------------------------------------------------------------


def _gguf_name(module: str) -> str:
    if module in ("lm_head", "model.embed_tokens"):
        return {"lm_head": "output", "model.embed_tokens": "token_embd"}[module]
    _, _, layer, name = module.split(".", 3)
    return f"blk.{layer}.{NAMES[name]}"


def _as_llama_cpp_pairs_dimensions(b: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a head's halves (d, d + D / 2) as neighbors."""
    return b.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _write_gguf(path: Path, adapter: RandomAdapter, **changes: object) -> Path:
    writer = GGUFWriter(str(path), str(changes.get("architecture", "llama")))
    writer.add_type(str(changes.get("type", "adapter")))
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 6.0)
    if (key := changes.get("key")) is not None:
        writer.add_string(str(key), "x")
    heads = {"q_proj": 4, "k_proj": 2}
    for (module, part), tensor in adapter.tensors.items():
        name, kind = _gguf_name(module), "a" if part.split(".")[0].endswith("A") else "b"
        if part.startswith("lora_embedding_A"):
            tensor = tensor.t()
        if kind == "b" and (last := module.rpartition(".")[2]) in heads:
            tensor = _as_llama_cpp_pairs_dimensions(tensor, heads[last])
        writer.add_tensor(f"{name}.weight.lora_{kind}", np.ascontiguousarray(tensor.numpy()))
    if (name := changes.get("tensor")) is not None:
        writer.add_tensor(str(name), np.zeros((3, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_adapter_is_the_peft_folder_that_it_was_converted_from(
    model: LoadedModel, adapter: RandomAdapter, tmp_path: Path
) -> None:
    peft = read_adapter(adapter.save(tmp_path / "peft"), model)
    gguf = read_adapter(_write_gguf(tmp_path / "adapter.gguf", adapter), model)

    want, got = _numbers(peft), _numbers(gguf)

    assert got.keys() == want.keys()
    assert {("layers.0.attn.qkv", 0), ("layers.1.mlp.gate_up", 96), ("embed", 0), ("head", 0)} < want.keys()
    for where, (scale, a, b) in want.items():
        assert got[where][0] == scale
        assert torch.equal(got[where][1], a)
        assert torch.equal(got[where][2], b)
    assert peft.digest == gguf.digest
    assert (peft.rank, peft.alpha) == (gguf.rank, gguf.alpha) == (3, 6.0)
    assert "model.layers.0.self_attn.q_proj.weight" in peft.targets
    assert "blk.0.attn_q.weight" in gguf.targets


@pytest.mark.parametrize("architecture", ["nemotron_h", "nemotron_h_moe"])
def test_a_gguf_adapter_may_have_each_name_of_the_architecture(
    adapter: RandomAdapter, tmp_path: Path, architecture: str
) -> None:
    path = _write_gguf(tmp_path / "adapter.gguf", adapter, architecture=architecture)

    stored = read_gguf_adapter(path, ARCHITECTURES["NemotronHForCausalLM"].gguf_names)

    assert stored.alpha == 6.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "model"}, "general.type is 'model'; it must be 'adapter' for an adapter"),
        (
            {"architecture": "qwen2"},
            "is for the architecture 'qwen2'; the model's is 'llama'; serve the model that the adapter was trained "
            "with",
        ),
        ({"key": "adapter.alora.invocation_tokens"}, "adapter.alora.invocation_tokens is 'x', which is not supported"),
        ({"tensor": "blk.0.attn_norm.weight"}, "tensor 'blk.0.attn_norm.weight' is not supported"),
        (
            {"tensor": "blk.7.attn_q.weight.lora_a"},
            "'blk.7.attn_q.weight.lora_a' lacks its 'blk.7.attn_q.weight.lora_b'",
        ),
    ],
)
def test_gguf_files_that_are_refused(
    model: LoadedModel, adapter: RandomAdapter, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = _write_gguf(tmp_path / "adapter.gguf", adapter, **changes)
    with pytest.raises(AdapterError) as refused:
        read_adapter(path, model)
    assert message in str(refused.value)


# --- PEFT ------------------------------------------------------------------------------------------------------------


def test_the_digest_is_of_what_an_adapter_computes(model: LoadedModel, adapter: RandomAdapter, tmp_path: Path) -> None:
    first = read_adapter(adapter.save(tmp_path / "first"), model)
    adapter.config |= {"base_model_name_or_path": "any/name", "lora_dropout": 0.1}
    assert read_adapter(adapter.save(tmp_path / "renamed"), model).digest == first.digest
    adapter.config["lora_alpha"] = 7.0
    scaled = read_adapter(adapter.save(tmp_path / "scaled"), model)
    adapter.config["lora_alpha"] = 6.0
    adapter.tensors["lm_head", "lora_A.weight"][0, 0] += 1
    changed = read_adapter(adapter.save(tmp_path / "changed"), model)
    assert len({first.digest, scaled.digest, changed.digest}) == 3
    assert first.num_bytes == sum(tensor.nbytes for tensor in adapter.tensors.values())


def test_the_digest_of_a_dora_is_of_its_file_and_not_of_how_lengths_are_rounded(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dora = random_adapter(random_model(llama_config()), only="_proj$", use_dora=True)
    vectors = {
        (module, "lora_magnitude_vector"): torch.linspace(0.5, 2, len(tensor))
        for (module, part), tensor in dora.tensors.items()
        if part == "lora_B.weight"
    }
    dora.tensors |= vectors
    first = read_adapter(dora.save(tmp_path / "first"), model)
    lengths = place._adapted_lengths
    monkeypatch.setattr(place, "_adapted_lengths", lambda layer, pair: lengths(layer, pair) * (1 + 2**-20))
    again = read_adapter(tmp_path / "first", model)
    assert again.digest == first.digest
    next(iter(vectors.values()))[0] += 1
    assert read_adapter(dora.save(tmp_path / "changed"), model).digest != first.digest


def test_a_copy_of_the_base_models_table_is_compared_in_parts(
    model: LoadedModel, adapter: RandomAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_ROWS_AT_A_TIME", 50)
    head = model.decoder.get_submodule("head")
    assert isinstance(head, Linear)
    table = head.read_rows(0, head.out_features)
    read: list[tuple[int, int]] = []

    def read_rows(layer: Linear, first: int, count: int) -> torch.Tensor:
        read.append((first, count))
        return read_all(layer, first, count)

    read_all = Linear.read_rows
    monkeypatch.setattr(Linear, "read_rows", read_rows)
    adapter.tensors["lm_head.base_layer", "weight"] = table.clone()
    read_adapter(adapter.save(tmp_path / "same"), model)
    assert read == [(0, 50), (50, 50), (100, 28)]
    adapter.tensors["lm_head.base_layer", "weight"][-1] += table.norm()  # the last part alone is another's
    with pytest.raises(AdapterError, match="is not from the base model"):
        read_adapter(adapter.save(tmp_path / "other"), model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported; only LORA is; merge the adapter"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is [[0, 1]], which is not supported"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices is [5], which is not supported"),
        ({"target_parameters": ["experts"]}, "target_parameters is ['experts'], which is not supported"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is [1], which is not supported"),
        ({"a_field_of_next_year": 1}, "a_field_of_next_year is 1, which is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base model's weights"),
        ({"r": 4}, "states rank 4; save the adapter again"),
        ({"r": 0}, "r is 0; it must be an integer from 1"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'"),
        ({"alpha_pattern": {"(a+)+": 1}}, "alpha_pattern has the pattern '(a+)+', which is too complex"),
        ({"rank_pattern": {"[": 3}}, "rank_pattern has the pattern '[', which is not a regular expression"),
    ],
)
def test_configurations_that_are_refused_by_the_fields_name(
    model: LoadedModel, adapter: RandomAdapter, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    adapter.config |= fields
    with pytest.raises(AdapterError) as refused:
        read_adapter(adapter.save(tmp_path), model)
    assert message in str(refused.value)
    assert str(tmp_path) in str(refused.value)


def _without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__delitem__(name)


def _with(name: str, *shape: int, value: float = 0.0) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.__setitem__(name, torch.full(shape, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(f"{Q}.lora_B.weight"), f"{Q}.lora_A.weight' lacks its lora_B"),
        (
            _with(f"{Q}.lora_A.weight", 3, 32),
            "is for a layer with 32 inputs and 64 outputs; the model's layer has 64 and 64; serve the model that it "
            "was trained with",
        ),
        (_with(f"{Q}.lora_B.weight", 32, 3), "is for a layer with 64 inputs and 32 outputs"),
        (
            _with(f"{Q}.lora_B.weight", 64, 3, value=float("nan")),
            f"'{Q}.lora_B.weight' has numbers that are not finite",
        ),
        (
            _with(f"{Q}.lora_C.weight", 3, 3),
            f"'{Q}.lora_C.weight' belongs to no layer of this model that adapters can change; merge the adapter into",
        ),
        (_with(f"{Q}.bias", 64), f"tensor '{Q}.bias' is not supported"),
        (_with(f"{Q}.weight", 64, 64), f"'{Q}.weight' replaces a whole layer"),
        (_with("base_model.model.lm_head.weight", 130, 64), "an adapter cannot add tokens"),
        (_with("base_model.model.lm_head.base_layer.weight", 128, 64, value=1.0), "is not from the base model"),
        (_with("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", 1, 64), "is not supported"),
        (_with("base_model.model.model.norm.weight", 64), "replaces a whole layer"),
    ],
)
def test_tensors_that_are_refused_by_name(
    model: LoadedModel,
    adapter: RandomAdapter,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    path = adapter.save(tmp_path) / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(AdapterError) as refused:
        read_adapter(tmp_path, model)
    assert message in str(refused.value)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize(
    "module", ["model.layers.9.self_attn.q_proj", "model.layers.0.mlp.experts.1.up_proj", "visual.proj"]
)
def test_pairs_of_layers_that_the_model_lacks_are_refused(
    model: LoadedModel, adapter: RandomAdapter, tmp_path: Path, module: str
) -> None:
    adapter.tensors[module, "lora_A.weight"], adapter.tensors[module, "lora_B.weight"] = (
        torch.ones(3, 64),
        torch.ones(64, 3),
    )
    with pytest.raises(AdapterError, match=f"base_model.model.{module}.lora_A.weight' belongs to"):
        read_adapter(adapter.save(tmp_path), model)


def test_other_files_are_refused(model: LoadedModel, adapter: RandomAdapter, tmp_path: Path) -> None:
    folder = adapter.save(tmp_path / "pickled")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    damaged = adapter.save(tmp_path / "damaged")
    (damaged / "adapter_model.safetensors").write_bytes(b"x" * 50)
    (tmp_path / "empty").mkdir()
    no_weights = adapter.save(tmp_path / "no-weights")
    (no_weights / "adapter_model.safetensors").unlink()
    no_object = adapter.save(tmp_path / "no-object")
    (no_object / "adapter_config.json").write_text(json.dumps([1]))
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    for path, message in (
        (folder, "adapter_model.bin, a pickle, which can run code when it is opened; save the adapter again with PEFT"),
        (damaged, "adapter_model.safetensors claims a header of"),
        (
            tmp_path / "empty",
            "adapter_config.json does not exist; an adapter's folder needs it; save the adapter again",
        ),
        (no_weights, "it has no adapter_model.safetensors; save the adapter again"),
        (no_object, "is not a JSON object"),
        (tmp_path / "file.txt", "is not an adapter: give a folder"),
        (tmp_path / "broken.gguf", "broken.gguf"),
    ):
        with pytest.raises(AdapterError) as refused:
            read_adapter(path, model)
        assert message in str(refused.value)
