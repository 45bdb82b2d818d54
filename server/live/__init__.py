"""Data for the dashboard: the engine's steps and the requests, sent to watchers."""
