"""The torch column of the table of operations: runs on any device, and is the reference of the other columns."""
