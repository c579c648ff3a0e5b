//! The `assent-kms` program; see the library of the same name.

use std::process::ExitCode;

/// What a duty allocates on one thread is dropped on another, and the system's own allocator has threads wait for each other
/// then.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    assent_kms::cli::main()
}
