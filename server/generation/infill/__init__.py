"""Code infill (fill-in-the-middle): prompts from the code around the gap, and limits on the lines generated."""
