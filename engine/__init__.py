"""The engine: what each step computes, and computing it. Tokens and time; no text, no HTTP."""
