"""``python -m gradwatch``."""

from gradwatch.cli import main

main()
