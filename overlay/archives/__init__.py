"""Layers in other formats: tar, OCI images, directories with other marks."""
