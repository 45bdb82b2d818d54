"""Bodies of requests and answers, their validation, and the parameters that are not honored."""
