"""`python -m rankray`."""

from rankray.cli import main

if __name__ == "__main__":
    main()
