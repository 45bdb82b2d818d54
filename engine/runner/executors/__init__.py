"""Executors: run a batch through a model's layers. The interface is in `executor.py`."""
