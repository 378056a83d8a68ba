//! Load scenarios for Socket.IO servers.
fn main() {}
