"""Contenders of `benchmarks.finetuning.steps`, each a process that makes a step when it is told to."""
