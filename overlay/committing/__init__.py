"""Tops that become part of what is below them, or of one another."""
