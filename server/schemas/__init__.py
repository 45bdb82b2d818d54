"""Bodies of requests and answers, and what becomes of each parameter."""
