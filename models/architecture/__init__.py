"""What a transformer computes, as plain frozen data: the DecoderSpec that a family's describe() returns, and its parts.

An encoder is a DecoderSpec, too, whose layers see both ways and which has no output layer (`DecoderSpec.is_encoder`).

Every technique that a family can choose is a field here; layers are composed from it when they are built. What is only
stored differently (rotary pairs side by side, norm weights minus 1, fused or stacked matrices) is not here: it is a
transform in the family's map of names (families/transforms.py).
"""
