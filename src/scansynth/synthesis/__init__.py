"""Runs at work: one subject, a folder of subjects, volumes without a source."""
