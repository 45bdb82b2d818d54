"""The commands of `headrace`: options, the life of the server process, and the terminal."""
