"""HTTP below the endpoints and routes: connections, middleware, request and response bodies, streams, disconnects."""
