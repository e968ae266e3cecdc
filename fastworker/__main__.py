"""``python -m fastworker`` is the ``fastworker`` command."""

from fastworker.cli import main

if __name__ == "__main__":
    main()
