"""The process behind `headrace pull`."""
