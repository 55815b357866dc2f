"""``python -m bench`` is ``castlewalls``."""

from bench.cli import main

if __name__ == "__main__":
    main()
