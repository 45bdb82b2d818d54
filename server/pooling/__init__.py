"""Requests to pooling models: tokenizing inputs, computing and counting them, and encoding vectors and scores."""
