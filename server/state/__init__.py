"""Responses and conversations that outlive their requests: how they are stored and found again."""
