"""Endpoints that compute with a model, one file each: body, early checks, preparation and answer.

`binding/` finds the files, binds every endpoint to a route, and says what an Endpoint is. Batches run the same objects
line by line, and the API's description and the documents' tables are made from them.
"""
