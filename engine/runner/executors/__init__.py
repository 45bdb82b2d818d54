"""Executors: what computes a batch on a model's layers. Each is behind the interface of `executor.py`."""
