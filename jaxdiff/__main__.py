"""`python -m jaxdiff` is the `jaxdiff` command."""

from jaxdiff.cli import main

if __name__ == "__main__":
    main()
