"""``python -m overlay``: the command, where its script is not on the path."""

from overlay.cli import main

main()
