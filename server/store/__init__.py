"""What is kept between requests: one SQLite database, in memory or in --data-dir, with tables by feature."""
