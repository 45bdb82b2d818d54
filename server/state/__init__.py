"""Responses and conversations that outlive their requests: what is stored of them, and how it is found again."""
