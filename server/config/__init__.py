"""Options of the API process, as dataclasses: the server as a whole, and parts such as the network."""
