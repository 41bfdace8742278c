//! The `pointsman` command.

use std::process::ExitCode;

/// The runtime aligns each task and each socket's registration to 128 bytes. The C library's allocator loses as much
/// again between them, this one nothing: a fifth of an idle connection (benchmarks/NOTES.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pointsman::main()
}
