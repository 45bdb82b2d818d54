"""Stored responses and conversations, which outlive their requests."""
