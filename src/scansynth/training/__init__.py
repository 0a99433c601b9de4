"""Training: from settings to a run folder, resumable to the last bit."""
