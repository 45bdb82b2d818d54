"""Layers with a recurrence in attention's place."""
