//! The `tidegate` program.

use std::process::ExitCode;

use tidegate::cli::{self, Started};
use tidegate::exit;

/// Of the allocators measured, the one with the fewest resident bytes per connection.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    exit::on_panic();
    cli::run(Started::here()).into()
}
