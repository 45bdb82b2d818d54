"""The life cycle of a server: its engines, background work and end, for every command that runs the application."""
