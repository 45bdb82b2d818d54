"""Contenders of `benchmarks.finetune`, each a process that makes a step when it is told to."""
