"""Messages as bytes: real ones, damaged ones, and what decoding must make of them."""
