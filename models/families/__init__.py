"""Model families: each maps a configuration to a DecoderSpec, and the checkpoint's tensor names to its parameters."""
