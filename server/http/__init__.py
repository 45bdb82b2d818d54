"""HTTP below the endpoints and routes: connections, layers around requests, bodies, streams, disconnects."""
