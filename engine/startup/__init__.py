"""Start-up of an engine: checks options, loads models, divides memory, and describes the ready engine."""
