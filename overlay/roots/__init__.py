"""Roots of their own over bottoms: for one command, or kept by name."""
