"""What ``fallthru check`` looks for in a top, and how it is mended."""
