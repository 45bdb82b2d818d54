"""What operators see of a server: ONE table of metrics, the values behind it, and one record of each request."""
