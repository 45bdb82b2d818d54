"""Machine code of the attention kernels: no spilled registers, tensor cores, and copies by 16 bytes."""

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.attention.triton import TritonAttention
from models.batch import forward_batch
from models.kv.layer import allocate_layer_kv
from tests.helpers.gpu.compile import Launch, MachineCode, compiled, launches

META = torch.device("meta")


def _launches(
    spec: AttentionSpec,
    sm: int,
    rows: int,
    sequences: int,
    dtype: torch.dtype = torch.bfloat16,
    kv_dtype: torch.dtype = torch.bfloat16,
) -> dict[str, Launch]:
    """Launches of a step of equal sequences, by name."""
    backend = TritonAttention(sm, 132)
    tables = [torch.zeros(sequences, 256, dtype=torch.int32)]
    batch = forward_batch([0] * rows * sequences, [rows] * sequences, tables, block_size=16, device=META)
    kv = allocate_layer_kv(backend.layout(spec, dtype, kv_dtype), 4, 16, META)
    q = torch.empty(rows * sequences, spec.num_heads, spec.head_dim, dtype=dtype, device=META)
    found = launches(lambda: backend.forward(q, kv, batch, batch.groups[0], spec))
    return {each.kernel.__name__: each for each in found}


def _check(code: MachineCode, copies: int = 16) -> None:
    code.check()
    assert code.count(r"LDGSTS\.E.*\.128") >= copies
    if code.name == "mixed_prefill":
        assert code.count("HGMMA" if code.sm == 90 else "HMMA") > 0
    else:
        assert code.count("HMMA") > 0


@pytest.mark.parametrize("sm", [80, 90])
@pytest.mark.parametrize(("name", "rows", "sequences"), [("split_decode", 1, 4), ("mixed_prefill", 300, 1)])
def test_heads_of_128_stay_in_registers(name: str, rows: int, sequences: int, sm: int) -> None:
    _check(compiled(_launches(AttentionSpec(32, 8, 128, 0.1), sm, rows, sequences)[name], sm))


# 16 bytes are 16 codes, so that there are fewer copies.
@pytest.mark.parametrize(
    ("kv_dtype", "sm"),
    [
        (torch.int8, 80),
        (torch.int8, 90),
        pytest.param(torch.float8_e4m3fn, 80, marks=pytest.mark.long),
        pytest.param(torch.float8_e4m3fn, 90, marks=pytest.mark.long),
    ],
    ids=str,
)
@pytest.mark.parametrize(("name", "rows", "sequences"), [("split_decode", 1, 4), ("mixed_prefill", 300, 1)])
def test_quantized_caches_stay_in_registers(
    name: str, rows: int, sequences: int, sm: int, kv_dtype: torch.dtype
) -> None:
    found = _launches(AttentionSpec(32, 8, 128, 0.1), sm, rows, sequences, kv_dtype=kv_dtype)
    _check(compiled(found[name], sm), copies=4)


@pytest.mark.long
@pytest.mark.parametrize("sm", [80, 90, 100])
@pytest.mark.parametrize(
    ("size", "kv_dtype"), [(64, torch.int8), (64, torch.float8_e5m2), (256, torch.float8_e5m2)], ids=str
)
@pytest.mark.parametrize(("name", "rows", "sequences"), [("split_decode", 1, 4), ("mixed_prefill", 300, 1)])
def test_quantized_heads_of_other_sizes_stay_in_registers(
    name: str, rows: int, sequences: int, size: int, kv_dtype: torch.dtype, sm: int
) -> None:
    found = _launches(AttentionSpec(32, 8, size, 0.1), sm, rows, sequences, kv_dtype=kv_dtype)
    compiled(found[name], sm).check()


@pytest.mark.parametrize(
    ("sm", "kv_dtype"),
    [
        (90, torch.bfloat16),
        *(
            pytest.param(sm, kv_dtype, marks=pytest.mark.long)
            for sm in (80, 90, 100)
            for kv_dtype in (torch.bfloat16, torch.int8, torch.float8_e4m3fn)
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize(("name", "rows", "sequences"), [("split_decode", 1, 4), ("mixed_prefill", 300, 1)])
def test_latents_stay_in_registers(name: str, rows: int, sequences: int, sm: int, kv_dtype: torch.dtype) -> None:
    spec = AttentionSpec(128, 1, 576, 0.1, values_from=64)
    code = compiled(_launches(spec, sm, rows, sequences, kv_dtype=kv_dtype)[name], sm)
    code.check()
    assert code.count("HMMA|UTCHMMA") > 0


def test_merge_stays_in_registers() -> None:
    compiled(_launches(AttentionSpec(32, 8, 128, 0.1), 90, 1, 4)["merge_splits"], 90).check()
