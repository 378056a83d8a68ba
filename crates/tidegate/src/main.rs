//! One process: configuration, build, run, drain.
fn main() {}
