"""Metrics for operators: ONE table of metrics, their values, and one record of each request."""
