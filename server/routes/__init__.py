"""Routes other than the model endpoints, one file per family: files, jobs, models, health, pages and others."""
