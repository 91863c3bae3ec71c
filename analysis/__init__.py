"""Traces as pandas frames, summaries and pictures."""
