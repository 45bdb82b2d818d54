"""The commands of `headrace`: options, the server process, and clients in the terminal."""
