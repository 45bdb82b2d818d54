"""Options of the API process, as dataclasses: network, models, adapters, fine-tuning, storage, and the server as a
whole."""
