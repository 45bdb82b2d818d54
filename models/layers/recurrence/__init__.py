"""Recurrent layers, which replace attention in some layers of hybrid models."""
