"""`headrace simulate`: a fleet of servers under a load, on a virtual clock."""
