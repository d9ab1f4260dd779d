//! What the disk can do to a server on a directory: any system call may be its last, the power may go, every call may
//! fail, the disk may be full.
//!
//! By default a sample, the same each time; all of it takes a quarter of an hour or more:
//!
//! ```console
//! $ just crash-matrix
//! ```

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

/// Where the calls of a process can be watched, see `trace`.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#[path = "."]
mod linux {
    mod conditions;
    mod errors;
    #[path = "../evidence/mod.rs"]
    mod evidence;
    mod kill;
    mod local;
    mod power;
    #[path = "../process/mod.rs"]
    #[allow(dead_code, reason = "each test binary uses its part")]
    mod process;
    mod sweeps;
    mod trace;
    mod tree;
    mod world;
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
#[test]
fn system_calls_are_watched_on_linux_x86_64_alone() {
    use std::io::{Write as _, stderr};
    // Not captured by the harness, so that it is seen.
    let _ = writeln!(stderr(), "SKIPPED: kills, power cuts and errors at system calls: not on this system");
}
