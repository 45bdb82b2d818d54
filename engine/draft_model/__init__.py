"""A small model that drafts for a large one: loading, checking and running it."""
