"""The engine: schedules and computes steps. It deals with tokens and time, not with text or HTTP."""
