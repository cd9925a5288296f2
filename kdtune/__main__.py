"""``python -m kdtune``."""

from kdtune.cli import main

main(prog_name="kdtune")
