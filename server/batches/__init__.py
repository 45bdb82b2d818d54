"""Batches: files of requests, which are checked and run line by line behind other work. Each line is answered once."""
