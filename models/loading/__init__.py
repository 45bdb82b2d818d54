"""Loading: from a checkpoint's files to a model that is ready to run."""
