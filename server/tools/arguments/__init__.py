"""Schemas of arguments: the parts that formats without JSON can write, read and enforce."""
