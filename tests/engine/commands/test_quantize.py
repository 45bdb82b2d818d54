"""engine/commands/quantize: what `headrace quantize` writes is read back, calibrated or not; some are refused."""

import dataclasses
import gc
import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import MixtralConfig, Qwen3MoeConfig

from engine.command_io.quantize_config import QuantizationMethod, QuantizeConfig, Scheme
from engine.commands.quantize import convert as conversion
from engine.commands.quantize import convert as convert_module
from engine.commands.quantize.checkpoint_writer import ConversionResult
from engine.commands.quantize.convert import convert
from engine.commands.quantize.folding import fold
from engine.errors import StartupError
from models.errors import CheckpointError, UnsupportedModelError
from models.export import hugging_face
from models.export.compressed_tensors import ExportFormat, compressed_tensors_config, module_tensors
from models.export.shards import ShardWriter
from models.forward.layer_stream import LayerStream, LayerwiseForward, layer_of
from models.linear.storage import WeightOptions
from models.loading.load import LoadOptions, load_model
from models.loading.open import open_model
from models.quant.dequantize import dequantize
from models.quant.gptq import quantize_to_nearest
from models.quant.tensor import ActivationQuantization, Encoding, QuantTensor
from models.sources.resolve import ModelFiles, resolve_model
from models.tokenizer.assets import TokenizerAssets
from tests.helpers.checkpoints import gpt2_config, llama_config, qwen2_config, random_model
from tests.helpers.gguf_writer import write_gguf
from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder
from tests.helpers.paged import PagedRun, PagedSequence
from tests.helpers.tokenizers import byte_level_json
from tests.models.families.bitnet_variants import BITNET_VARIANTS
from tests.models.families.classic_variants import CLASSIC_VARIANTS
from tests.models.families.deepseek_v32_variants import glm_moe_dsa
from tests.models.families.multimodal_variants import MULTIMODAL_VARIANTS
from tests.models.families.recurrent_variants import lfm2, qwen35
from tests.models.families.state_space_variants import STATE_SPACE_VARIANTS

TEXT = "The channel that feeds the wheel is called a headrace. " * 12
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "intermediate_size": 160}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("llama"), llama_config(**SIZES))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With biases on q, k and v, and a tied head."""
    return write_model_folder(tmp_path_factory.mktemp("qwen"), qwen2_config(**SIZES, tie_word_embeddings=True))


def quantized(source: Path, out: Path, **options: object) -> ConversionResult:
    out.mkdir()
    files = resolve_model(str(source), None, lambda *_: None)
    config = QuantizeConfig(out=str(out), **options)  # type: ignore[arg-type]
    text = None
    if config.is_calibrated:
        config, text = dataclasses.replace(config, calibration_tokens=512), TEXT
    return convert(files, open_model(files), config, text, out, lambda *_: None)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """As headrace reads them."""
    tensors = open_model(ModelFiles(folder, (), str(folder))).checkpoint.tensors
    return {name: tensor.read(torch.float32) for name, tensor in tensors.items() if tensor.read is not None}


@pytest.mark.parametrize(
    ("scheme", "encoding", "activation", "largest_error"),
    [
        (Scheme.INT4, Encoding.INT4, ActivationQuantization.NONE, 0.12),
        (Scheme.INT8, Encoding.INT8, ActivationQuantization.NONE, 0.01),
        (Scheme.FP8, Encoding.FP8_E4M3, ActivationQuantization.NONE, 0.04),
        (Scheme.W8A8, Encoding.INT8, ActivationQuantization.DYNAMIC_PER_TOKEN, 0.01),
        (Scheme.FP8_DYNAMIC, Encoding.FP8_E4M3, ActivationQuantization.DYNAMIC_PER_TOKEN, 0.04),
    ],
)
def test_what_is_written_is_read_back(
    llama: Path,
    tmp_path: Path,
    scheme: Scheme,
    encoding: Encoding,
    activation: ActivationQuantization,
    largest_error: float,
) -> None:
    result = quantized(llama, tmp_path / "out", scheme=scheme, method=QuantizationMethod.RTN)
    before, after = weights_of(llama), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        if name.removesuffix(".weight") in result.group_sizes:
            size = result.group_sizes[name.removesuffix(".weight")] or weight.shape[1]
            nearest = quantize_to_nearest(weight, encoding, size, torch.bfloat16)
            assert torch.equal(after[name], dequantize(nearest, torch.float32))
            assert 0 < float((after[name] - weight).norm() / weight.norm()) < largest_error
        else:
            assert torch.equal(after[name], weight), name
    assert len(result.group_sizes) == 14
    assert result.unquantized == ["lm_head"]
    stored = open_model(ModelFiles(tmp_path / "out", (), "out")).checkpoint.tensors.values()
    assert {each.quantized.kind.activation for each in stored if each.quantized} == {activation}


def test_int8_may_have_groups(llama: Path, tmp_path: Path) -> None:
    result = quantized(llama, tmp_path / "out", scheme=Scheme.INT8, group_size=32)
    assert set(result.group_sizes.values()) == {32}
    before, after = weights_of(llama), weights_of(tmp_path / "out")
    for module in result.group_sizes:
        nearest = quantize_to_nearest(before[f"{module}.weight"], Encoding.INT8, 32, torch.bfloat16)
        assert torch.equal(after[f"{module}.weight"], dequantize(nearest, torch.float32))


def test_rows_that_do_not_fill_the_last_word_are_padded() -> None:
    codes = torch.tensor([[-127, 0, 1, 127, 5]], dtype=torch.int8)
    quantized = QuantTensor(Encoding.INT8, codes, torch.ones(1, 1), None, group_size=5)
    packed = module_tensors("x", quantized, ExportFormat(Encoding.INT8))["x.weight_packed"]
    assert packed.view(torch.uint8)[0, :5].tolist() == [1, 128, 129, 255, 133]
    assert packed.shape == (1, 2)


def test_groups_are_the_largest_that_divide_the_columns(llama: Path, tmp_path: Path) -> None:
    result = quantized(llama, tmp_path / "out", scheme=Scheme.INT4, method=QuantizationMethod.RTN)
    assert set(result.group_sizes.values()) == {64, 32}  # 128 divides neither 64 nor 160
    config = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    groups = {group["weights"]["group_size"]: group["targets"] for group in config["config_groups"].values()}
    assert groups[32] == [r"re:model\.layers\.\d+\.mlp\.down_proj$"]
    assert "Linear" not in groups[64]
    assert config["ignore"] == ["lm_head"]


def test_forwards_go_on_through_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no group divides the columns: what was divided out before such a matrix is in it for later layers."""
    after_first: list[LayerwiseForward] = []
    compute = LayerStream.compute

    def remember(stream: LayerStream, index: int, forward: LayerwiseForward, *, advances: bool = True) -> None:
        compute(stream, index, forward, advances=advances)
        if index == 0 and advances:
            after_first.append(dataclasses.replace(forward, rows=[rows.clone() for rows in forward.rows]))

    with monkeypatch.context() as patch:
        patch.setattr(LayerStream, "compute", remember)
        source = write_model_folder(tmp_path / "in", llama_config(**{**SIZES, "intermediate_size": 100}))
        quantized(source, tmp_path / "out", scheme=Scheme.INT4, method=QuantizationMethod.GPTQ)
    written = open_model(ModelFiles(tmp_path / "out", (), "out"))
    stream = LayerStream(
        written, dtype=torch.float32, device=torch.device("cpu"), weights=WeightOptions(keeps_quantized=False)
    )
    stream.load_non_layer_weights()
    forward = stream.begin(after_first[-1].batches)
    with torch.inference_mode():
        index, _ = next(stream.layers("read", lambda *_: None))
        stream.compute(index, forward)
    expected = after_first[-1].hidden()  # after the unquantized layer's
    assert (forward.hidden() - expected).norm() < 0.01 * expected.norm()  # norms are written in bf16


def test_a_visited_layer_is_freed_with_its_experts(tmp_path: Path) -> None:
    source = write_model_folder(tmp_path, MixtralConfig(**{**SIZES, "num_local_experts": 4}))
    stream = LayerStream(open_model(ModelFiles(source, (), "x")), dtype=torch.float32, device=torch.device("cpu"))
    modules = [weakref.ref(layer.mlp) for _, layer in stream.layers("read", lambda *_: None)]
    gc.collect()
    assert [module() for module in modules] == [None] * len(modules)


def test_a_wrapped_language_model_is_refused(tmp_path: Path) -> None:
    config = MULTIMODAL_VARIANTS[next(iter(MULTIMODAL_VARIANTS))]()
    random_model(config).save_pretrained(tmp_path / "in")
    files = ModelFiles(tmp_path / "in", (), "x")
    with pytest.raises(UnsupportedModelError, match="x wraps a language model"):
        hugging_face.make_layout(files, open_model(files))


def test_matrices_without_a_group_stay_as_they_are(tmp_path: Path) -> None:
    source = write_model_folder(tmp_path / "in", llama_config(**{**SIZES, "intermediate_size": 72}))
    result = quantized(source, tmp_path / "out", scheme=Scheme.INT4)
    assert [name for name in result.unquantized if name.endswith("down_proj")] == [
        f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)
    ]
    config = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert "model.layers.0.mlp.down_proj" in config["ignore"]
    assert logits_of(tmp_path / "out").isfinite().all()


def logits_of(folder: Path, tokens: Sequence[int] = range(5, 45)) -> torch.Tensor:
    files = resolve_model(str(folder), None, lambda *_: None)
    model = load_model(files, LoadOptions(dtype="float32"), lambda *_: None)
    [logits] = PagedRun(model.decoder).step([(PagedSequence(), list(tokens))])
    return logits


@pytest.mark.parametrize(
    ("source", "scheme"),
    [
        ("llama", Scheme.INT4),
        ("qwen", Scheme.INT4),
        ("short_convolutions", Scheme.INT4),
        ("llama", Scheme.FP8),
        ("qwen", Scheme.FP8_DYNAMIC),
    ],
)
def test_calibration_brings_the_outputs_nearer(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, scheme: Scheme
) -> None:
    folder = request.getfixturevalue(source)
    tokens = Tokenizer.from_str(byte_level_json()).encode(TEXT).ids[:120]
    truth = logits_of(folder, tokens)
    errors = []
    for method in (QuantizationMethod.RTN, QuantizationMethod.GPTQ):
        quantized(folder, tmp_path / method, scheme=scheme, method=method)
        errors.append(float((logits_of(tmp_path / method, tokens) - truth).norm() / truth.norm()))
    assert 0 < errors[1] < 0.9 * errors[0]


def test_fp8_is_calibrated_without_factors(llama: Path, tmp_path: Path) -> None:
    """All but the codes and scales is as it was: norms too, where int4's and int8's factors go."""
    result = quantized(llama, tmp_path / "out", scheme=Scheme.FP8_DYNAMIC)
    before, after = weights_of(llama), weights_of(tmp_path / "out")
    changed = {name for name, weight in before.items() if not torch.equal(after[name], weight)}
    assert changed == {f"{module}.weight" for module in result.group_sizes}
    assert len(changed) == 14
    for name in changed:
        nearest = quantize_to_nearest(before[name], Encoding.FP8_E4M3, before[name].shape[1], torch.bfloat16)
        assert not torch.equal(after[name], dequantize(nearest, torch.float32))
        assert float((after[name] - before[name]).norm() / before[name].norm()) < 0.07


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With norms after the sums, as OPT-350M."""
    config = CLASSIC_VARIANTS["opt-350m"]()
    config.vocab_size = VOCAB_SIZE
    return write_model_folder(tmp_path_factory.mktemp("opt"), config)


@pytest.fixture(scope="module")
def bitnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a norm between the matrices of the MLP."""
    config = BITNET_VARIANTS["bitnet"]()
    config.vocab_size = VOCAB_SIZE
    return write_model_folder(tmp_path_factory.mktemp("bitnet"), config)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an indexer, which reads the norm before attention, too."""
    config = glm_moe_dsa(vocab_size=VOCAB_SIZE, mlp_layer_types=["dense", "dense"])
    return write_model_folder(tmp_path_factory.mktemp("indexed"), config)


_FOLDED = {"opt": set(), "bitnet": {"attn.qkv", "mlp.gate_up"}, "indexed": {"mlp.gate_up", "mlp.down"}}


@pytest.mark.parametrize("source", ["llama", "qwen", "opt", "bitnet", "indexed"])
@torch.inference_mode()
def test_factors_leave_the_model_as_it_was(request: pytest.FixtureRequest, source: str) -> None:
    """Folded into norms and matrices, any factors cancel out."""
    folder = request.getfixturevalue(source)
    stream = LayerStream(open_model(ModelFiles(folder, (), "x")), dtype=torch.float32, device=torch.device("cpu"))
    run = PagedRun(load_decoder(folder))
    [before] = run.step([(PagedSequence(), list(range(5, 45)))])
    random = torch.Generator().manual_seed(3)
    for index, layer in enumerate(run.decoder.layers):
        plan = [each for each in stream.assignments if layer_of(each) == index]

        def choose_factors(name: str, linear: torch.nn.Module) -> torch.Tensor:  # noqa: ARG001
            return torch.rand(linear.in_features, generator=random) + 0.5

        folding = fold(layer, run.decoder.spec.layers[index], index, plan, choose_factors, torch.bfloat16)
        assert set(folding.column_factors) == _FOLDED.get(source, {"attn.qkv", "mlp.gate_up", "mlp.down"})
        for each in plan:
            name = each.destination.module.removeprefix(f"layers.{index}.")
            linear = layer.get_submodule(name)
            if each.destination.parameter == "weight" and name in ("attn.qkv", "mlp.gate_up", "mlp.down"):
                rows = linear.weight.narrow(0, *linear.rows(each.destination.shard))
                rows.copy_(folding.folded(rows.clone(), name, each))
    [after] = run.step([(PagedSequence(), list(range(5, 45)))])
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)


def load_decoder(folder: Path) -> torch.nn.Module:
    files = resolve_model(str(folder), None, lambda *_: None)
    return load_model(files, LoadOptions(dtype="float32"), lambda *_: None).decoder


def test_a_gguf_becomes_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = TokenizerAssets(byte_level_json().encode(), "{{ messages }}", {"eos_token": "</s>"}, 0, [1], False)
    monkeypatch.setattr(hugging_face, "load_tokenizer_assets", lambda *_: assets)
    monkeypatch.setattr(conversion, "load_tokenizer_assets", lambda *_: assets)
    write_gguf(random_model(llama_config(**SIZES)), tmp_path / "model.gguf", GGMLQuantizationType.Q8_0)
    quantized(tmp_path / "model.gguf", tmp_path / "out", scheme=Scheme.INT4)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == "llama"
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == {"bos_token_id": 0, "eos_token_id": [1]}
    assert (tmp_path / "out/tokenizer.json").exists()
    assert logits_of(tmp_path / "out").isfinite().all()


def test_large_checkpoints_are_sharded(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, max_bytes=1000)
    tensors = {f"t{index}": torch.full((100,), float(index)) for index in range(5)}  # 400 bytes each
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2000
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"model-0000{part}-of-00003.safetensors" for part in (1, 2, 3)
    ]
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name])


def test_transposed_matrices_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_model_folder(tmp_path / "in", gpt2_config(vocab_size=VOCAB_SIZE))
    with pytest.raises(UnsupportedModelError, match="is stored transposed, which compressed-tensors cannot describe"):
        quantized(source, tmp_path / "out", scheme=Scheme.INT8)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_is_refused_before_anything_is_read(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = quantized(llama, tmp_path / "out", scheme=Scheme.INT4, method=QuantizationMethod.RTN).num_bytes
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(0.9 * needed)))
    with pytest.raises(StartupError, match=r"the checkpoint will take .* free; make space there"):
        quantized(llama, tmp_path / "more", scheme=Scheme.INT4)
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=int(1.01 * needed)))
    quantized(llama, tmp_path / "enough", scheme=Scheme.INT4, method=QuantizationMethod.RTN)


def test_a_disk_that_fills_up_is_reported(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "absent")
    writer.add("x", torch.zeros(3))
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint: .*[Nn]o such file"):
        writer.finish()


def test_matrices_of_mixed_rows_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_model_folder(tmp_path / "in", qwen35(vocab_size=VOCAB_SIZE))
    with pytest.raises(UnsupportedModelError, match=r"q_proj.weight' holds several matrices with mixed rows"):
        quantized(source, tmp_path / "out", scheme=Scheme.INT8)
    assert list((tmp_path / "out").iterdir()) == []


def test_experts_are_quantized_and_their_router_is_not(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(
        **{**SIZES, "intermediate_size": 96, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
    )
    source = write_model_folder(tmp_path / "in", config)
    result = quantized(source, tmp_path / "out", scheme=Scheme.INT4)
    assert "model.layers.0.mlp.gate" in result.unquantized
    assert "model.layers.0.mlp.experts.3.down_proj" in result.group_sizes
    assert logits_of(tmp_path / "out").isfinite().all()


def test_groups_of_modules_are_told_apart_by_digits_in_their_names() -> None:
    sizes = {f"model.layers.{layer}.mlp.w{n}": size for layer in range(2) for n, size in ((1, 64), (2, 128))}
    groups = compressed_tensors_config(ExportFormat(Encoding.INT4), sizes, [])["config_groups"].values()
    by_size = {group["weights"]["group_size"]: group["targets"] for group in groups}
    assert by_size == {64: [r"re:model\.layers\.\d+\.mlp\.w1$"], 128: [r"re:model\.layers\.\d+\.mlp\.w2$"]}


@pytest.fixture(scope="module")
def short_convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("lfm2"), lfm2(**SIZES, tie_word_embeddings=False))


def test_short_convolutions_are_quantized(short_convolutions: Path, tmp_path: Path) -> None:
    result = quantized(short_convolutions, tmp_path / "out", scheme=Scheme.INT4, method=QuantizationMethod.GPTQ)
    assert "model.layers.0.conv.in_proj" in result.group_sizes


def test_attention_and_the_recurrence_beside_it_are_calibrated(tmp_path: Path) -> None:
    config = STATE_SPACE_VARIANTS["falcon-h1"]()
    config.vocab_size = VOCAB_SIZE
    folder = write_model_folder(tmp_path / "in", config)
    result = quantized(folder, tmp_path / "out", scheme=Scheme.INT4, method=QuantizationMethod.GPTQ)
    assert {"model.layers.0.mamba.in_proj", "model.layers.0.self_attn.q_proj"} <= result.group_sizes.keys()
