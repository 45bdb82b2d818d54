"""The process behind `headrace models`."""
