"""Which tokens the next step computes, for which sequences."""
