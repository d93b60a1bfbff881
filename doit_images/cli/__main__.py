"""``python -m doit_images.cli …``: doit, with what this package adds to its command line."""

from doit_images.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
