"""The computation of a transformer as plain frozen data: DecoderSpec, which a family's describe() returns, and its
parts.

An encoder is a DecoderSpec, too: its attention is bidirectional, and it has no output layer (`DecoderSpec.is_encoder`).

Every technique that a family can choose is a field here; layers are composed from it when they are built. Differences
in storage alone (rotary pairs side by side, norm weights minus 1, fused or stacked matrices) are transforms in the
family's map of names (families/transforms.py).
"""
