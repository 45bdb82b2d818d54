"""Forward passes over whole texts, side by side and without padding: in one step, in steps, or layer by layer."""
