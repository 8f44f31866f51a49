"""`python -m bertnli`: the command, also where its folder is not on PATH."""

from bertnli.cli import main

if __name__ == "__main__":
    main()
