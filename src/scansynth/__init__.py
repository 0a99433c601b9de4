"""scansynth makes the medical scans nobody acquired; every image it writes is synthetic and marked so."""

__version__ = "0.1.0"
