"""Guards: models that were trained to moderate, recognized by their chat templates and asked in their own words."""
