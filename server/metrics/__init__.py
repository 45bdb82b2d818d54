"""Metrics for operators: the table that defines all metrics, their values, and the record of each request."""
