"""``python -m fxopt``."""

from fxopt.cli.main import main

main()
