"""What goes into an initramfs, for a root that is an overlay: shell, and no Python."""
