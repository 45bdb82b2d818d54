"""The API process: the command line, HTTP and text."""
