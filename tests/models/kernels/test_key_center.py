"""Centers of rotated keys: attention by the C++ kernels and by the reference back end, as if keys had kept them."""

import pytest
import torch

from models.architecture.attention import AttentionSpec
from models.attention.base import AttentionBackend
from models.attention.cpu import CpuAttention
from models.attention.reference import ReferenceAttention
from models.attention.rotary import rotary_embedding
from models.batch import KVGroupBatch
from models.kernels.cpu.library import KernelLibrary
from models.kv.key_center import RotatedCenter, key_rotation
from tests.models.kernels.paged_batches import Lengths, context_slots, full_kv, paged_batch

LENGTHS = [Lengths(1, 600), Lengths(3, 140), Lengths(40, 40)]
SPECS = {
    "plain": AttentionSpec(9, 3, 64, 0.04),
    "sinks": AttentionSpec(4, 2, 128, 0.04, value_size=80, has_sinks=True),
    "window": AttentionSpec(6, 2, 48, 0.04, sliding_window=33, logit_softcap=20.0, has_alibi=True),
    "chunk": AttentionSpec(6, 2, 16, 0.1, chunk=40),
}


class _Keys:
    """A batch whose keys are far from zero, but not from their center, which at position 0 is another one."""

    def __init__(self, spec: AttentionSpec, dtype: torch.dtype, rotary_dim: int, block_size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.spec = spec
        self.batch, self._num_blocks = paged_batch(LENGTHS, block_size, generator)
        group = self.batch.groups[0]
        assert isinstance(group, KVGroupBatch)
        self._group, self._slots = group, context_slots(self.batch)
        self._positions = torch.cat([torch.arange(length) for length in self.batch.context_lens])
        frequencies = 10000.0 ** -torch.linspace(0, 0.9, rotary_dim // 2)
        self._rotary = rotary_embedding(self._positions, frequencies, 1.2)
        heads = torch.randn(2, spec.num_kv_heads, spec.head_dim, generator=generator) * 20
        self.center = RotatedCenter(heads.bfloat16().float(), key_rotation(frequencies, 1.2, 700))
        total = len(self._slots)
        k = torch.randn(total, spec.num_kv_heads, spec.head_dim, generator=generator)
        self._k = (k + self.center.heads[(self._positions > 0).long()]).to(dtype)
        self._v = torch.randn(total, spec.num_kv_heads, spec.value_dim, generator=generator).to(dtype)
        self._q = torch.randn(sum(self.batch.query_lens), spec.num_heads, spec.head_dim, generator=generator).to(dtype)
        self._extras = {
            "alibi_slopes": 2.0 ** -torch.arange(1, spec.num_heads + 1) if spec.has_alibi else None,
            "sinks": torch.randn(spec.num_heads, generator=generator) if spec.has_sinks else None,
        }

    def attended(self, backend: AttentionBackend, kv_dtype: torch.dtype, *, has_center: bool = True) -> torch.Tensor:
        size = self._group.block_size
        kv = full_kv(backend, self.spec, self._num_blocks, size, self._k.dtype, float("nan"), kv_dtype)
        if has_center:
            kv.rotated_center = self.center
        group = KVGroupBatch(self._slots, self._group.block_tables, size)
        heads = self._q.new_zeros(len(self._k), self.spec.num_heads, self.spec.head_dim)
        backend.rotate_and_write(kv, heads, self._k.clone(), self._v, self._rotary, group)
        return backend.forward(self._q, kv, self.batch, self._group, self.spec, **self._extras).float()


@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", list(SPECS))
def test_scores_of_the_center_are_those_of_torch(
    kernels: KernelLibrary, name: str, dtype: torch.dtype, block_size: int
) -> None:
    spec = SPECS[name]
    keys = _Keys(spec, dtype, spec.head_dim if name == "plain" else spec.head_dim // 2 - 2, block_size)

    got, want = (keys.attended(each, torch.int4) for each in (CpuAttention(kernels), ReferenceAttention()))

    # Some keys are rounded to another code.
    torch.testing.assert_close(got, want, atol=0.02 if dtype == torch.bfloat16 else 2e-3, rtol=0.02)


@pytest.mark.parametrize(("base", "num_pairs"), [(1e4, 32), (1e6, 64), (1e4, 8)])
def test_tables_make_cosines_and_sines_of_a_chunks_positions(base: float, num_pairs: int) -> None:
    frequencies = base ** -(torch.arange(num_pairs) / num_pairs)

    rotation = key_rotation(frequencies, 1.0, 200)

    fast, columns = rotation.num_fast, rotation.offsets[:, 16:144].double()
    assert (rotation.terms is None) == (num_pairs == 8) == (fast == num_pairs)
    angles = torch.outer(frequencies.double(), torch.arange(128))
    pairs = columns[: 2 * fast].view(2, fast, 128)
    if rotation.terms is not None:
        pairs = torch.cat((pairs, (rotation.terms.double() @ columns[2 * fast :]).view(2, -1, 128)), dim=1)
    torch.testing.assert_close(pairs, torch.stack((angles.cos(), angles.sin())), atol=3e-7, rtol=0.0)


@pytest.mark.parametrize("name", list(SPECS))
def test_keys_near_their_center_lose_little(name: str) -> None:
    keys, backend = _Keys(SPECS[name], torch.float32, SPECS[name].head_dim // 2, 16), ReferenceAttention()
    exact = keys.attended(backend, torch.float32, has_center=False)

    with_center, without = (
        (keys.attended(backend, torch.int4, has_center=has) - exact).norm() / exact.norm() for has in (True, False)
    )

    assert with_center < 0.12
    assert without > 2 * with_center
