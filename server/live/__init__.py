"""What the dashboard shows: the engine's steps and the requests, told to whoever watches, and to nobody at no cost."""
