"""The served models: which model a request uses, when models are loaded, and their adapters."""
