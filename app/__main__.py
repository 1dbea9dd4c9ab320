"""`python -m app`: the API process."""

import gc

# Nothing that is imported is ever garbage: looking for some meanwhile takes a seventh of the start. `main` turns it on.
gc.disable()

from app.process import main  # noqa: E402  the line above must come first

if __name__ == "__main__":
    main()
