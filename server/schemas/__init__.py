"""Bodies of requests and responses, their validation, and the request parameters that are not honored."""
