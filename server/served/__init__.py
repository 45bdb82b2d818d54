"""The served models and their adapters: finding the model of a request, and loading and unloading models."""
