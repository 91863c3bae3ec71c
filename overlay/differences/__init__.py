"""What a top changes: found, compared, written down."""
