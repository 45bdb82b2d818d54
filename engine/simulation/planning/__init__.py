"""Plans: the largest load that a server takes within limits of time, and what would change it."""
