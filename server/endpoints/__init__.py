"""Endpoints that compute with a model, one module each: body, early checks, preparation and answer.

`binding/` defines Endpoint, collects the modules, and registers a route for every endpoint. Batches run the same
endpoints line by line, and the OpenAPI description and the documents' tables are generated from them.
"""
