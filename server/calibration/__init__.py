"""Calibration of decisions: fits, their measures, and the files that they are kept in."""
