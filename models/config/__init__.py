"""A model's configuration: checked fields, rotary settings, overrides."""
