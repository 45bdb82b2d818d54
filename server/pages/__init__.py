"""The pages for browsers: what they are made of, as files, and how it is given."""
