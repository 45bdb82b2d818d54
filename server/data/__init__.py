"""Preparation of training files: readers, rules, duplicates, leaks, languages, personal data, and the report of it."""
