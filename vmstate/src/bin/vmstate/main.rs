//! The program `vmstate`.
fn main() {}
