"""The layers that a decoder is composed of."""
