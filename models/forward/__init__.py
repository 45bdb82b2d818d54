"""Forward passes over whole texts, packed without padding: in one step, in several, or layer by layer."""
