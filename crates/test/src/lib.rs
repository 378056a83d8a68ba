//! tidegate-test.
