"""Contenders of `benchmarks.finetuning.steps`, processes that make a step on request."""
