"""The API's description: OpenAPI's document of all routes, made of the schemas that bodies and answers have."""
