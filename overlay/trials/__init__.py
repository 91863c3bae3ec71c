"""Throw-away writable views of the whole system: ``fallthru try``."""
