"""The OpenAPI document: the API's description, made of routes, operations and the schemas of bodies and answers."""
