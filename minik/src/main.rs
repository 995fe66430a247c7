//! The `minik` binary.
fn main() {}
