//! Tests that run the real binary; see `tests/`.
