"""Data for the dashboard: engine steps and requests, streamed to the clients that watch (watchers)."""
