"""``python -m fxopt.cli``."""

from fxopt.cli.main import main

main()
