//! What the disk can do to a server on a directory: any system call may be its last, the power may go, every call may
//! fail, the disk may be full.
//!
//! By default a sample, the same each time; all of it, which takes a quarter of an hour:
//!
//! ```console
//! $ just crash-matrix
//! ```

#![cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

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
