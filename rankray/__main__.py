"""`python -m rankray`."""

from rankray.cli.app import main

if __name__ == "__main__":
    main()
