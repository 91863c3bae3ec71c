"""Directory copyup ahead of time: ``fallthru prime``, and indexes that many tops share."""
