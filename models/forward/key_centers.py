"""Centers of keys for a KV cache of 4 bits: the means of each head's keys over a few random tokens."""

import dataclasses

import torch

from models.compute import ComputeConfig
from models.decoder import Decoder
from models.forward.chunk_batches import BLOCK_SIZE, joint_batch
from models.kv.key_center import RotatedCenter, key_rotation
from models.layers.attention.attention import Attention
from models.layers.rotary_frequencies import attention_factor
from models.loaded_model import ModelDecoder

_SEQUENCES, _LENGTH = 8, 32


@torch.inference_mode()
def center_keys(decoder: ModelDecoder, compute: ComputeConfig, max_len: int) -> None:
    """Choose the centers of all layers that can have them; none unless `compute` has a KV cache of 4 bits.

    Keys differ less from one token to another than from zero, and only the difference is stored. The first token of a
    sequence, which many models attend to whatever it is, has keys of its own. Tokens need not be a text for this. Must
    follow `serve_context`, since frequencies may depend on the context, and precede the first forward.
    """
    if compute.kv_dtype != torch.int4 or not isinstance(decoder, Decoder):
        return
    rotations = [
        key_rotation(frequencies, attention_factor(rope), max_len)
        for frequencies, (rope, _) in zip(decoder.rotary.frequencies, decoder.rotary.specs, strict=True)
    ]
    layers = [
        (module, rotation)
        for index, layer in enumerate(decoder.layers)
        if (rotation := decoder.rotary.of_layer(index, rotations)) is not None and len(rotation.frequencies)
        for module in layer.modules()
        if isinstance(module, Attention) and module.rotates_keys_last
    ]
    length = min(_LENGTH, max_len)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(decoder.spec.vocab_size, (_SEQUENCES, length), generator=generator).tolist()
    wide = dataclasses.replace(compute, kv_dtype=compute.dtype).cache_layout(decoder.mixers)
    num_blocks = _SEQUENCES * -(-length // BLOCK_SIZE)
    kv = wide.allocate_unshared(num_blocks, BLOCK_SIZE, compute.device, num_states=_SEQUENCES)
    for module, _ in layers:
        module.recorded_keys = []
    decoder(joint_batch(tokens, wide.groups, compute.device), kv)
    decoder.take_rows_per_expert()  # these tokens do not count
    for module, rotation in layers:
        keys = torch.cat(module.recorded_keys or []).unflatten(0, (_SEQUENCES, length))
        heads = torch.stack((keys[:, 0].mean(dim=0), keys[:, 1:].flatten(0, 1).mean(dim=0)))
        # Rounded, so that threads and batches that compute other last bits find the same blocks on disk.
        heads = torch.nan_to_num(heads).to(torch.bfloat16).to(torch.float32)
        module.recorded_keys, module.rotated_center = None, RotatedCenter(heads, rotation)
