"""ModelImpl: whose code computes a model."""

import enum


class ModelImpl(enum.Enum):
    AUTO = "auto"  # headrace's where it has a family for the architecture
    HEADRACE = "headrace"
    TRANSFORMERS = "transformers"
