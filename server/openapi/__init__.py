"""The OpenAPI document, made from routes, operations, and the schemas of request and response bodies."""
