"""Who is served next: service classes and their rules, and the tenants of a class by what they were served."""
