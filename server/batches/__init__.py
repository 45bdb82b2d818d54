"""Batches: files of requests, validated as a whole, then run line by line at low priority, each line once."""
