"""Batches: files of requests, checked, and run line by line beside other work; each line is answered exactly once."""
