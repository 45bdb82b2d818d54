"""Routes that are no endpoints, one file each family: files, jobs, models, health, pages and others."""
