"""`python -m jaxdiff` is the `jaxdiff` command."""

from jaxdiff.cli import main

main()
