"""Model families: from a configuration to a DecoderSpec, and the names of its tensors."""
