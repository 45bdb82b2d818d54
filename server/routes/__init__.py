"""The endpoints, a file each family."""
