//! Micro-benchmarks of what a connection pays for: choosing a backend, relaying a message; and of reading a
//! configuration. `cargo bench` runs them; the allocations that divan counts are part of the result.

mod choose;
mod own;
mod parse;
mod relay;

/// Counts the allocations.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}
