"""`python -m marmo`."""

from marmo.cli.main import main

if __name__ == "__main__":
    main()
