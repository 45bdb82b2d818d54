"""Reports for the dashboard that combine several parts of the server."""
