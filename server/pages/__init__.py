"""The web pages: their static files, and how they are served."""
