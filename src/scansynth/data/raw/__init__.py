"""Scans as they come: brought onto one grid, freed of bias fields and, where asked, of what is not brain."""
