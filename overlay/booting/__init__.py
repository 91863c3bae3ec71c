"""Systems that boot on an overlay: ``fallthru boot``."""
