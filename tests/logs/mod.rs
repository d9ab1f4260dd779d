//! Keeps what servers log while they are tested, for `tests/secrets.py` to search: in files of the folder that
//! `RELEASE_SERVER_TEST_LOGS` names. Without it nothing is kept.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio, id},
    sync::Once,
};

/// Whether anything is kept.
pub(crate) fn are_kept() -> bool {
    std::env::var_os("RELEASE_SERVER_TEST_LOGS").is_some()
}

/// A file of this test program, to be added to.
fn file(kind: &str) -> Option<File> {
    let mut path = PathBuf::from(std::env::var_os("RELEASE_SERVER_TEST_LOGS")?);
    let program = std::env::current_exe().expect("the program knows its path");
    let program = program.file_name().expect("a name").to_string_lossy().into_owned();
    path.push(format!("{program}-{}.{kind}", id()));
    Some(OpenOptions::new().create(true).append(true).open(path).expect("the log is kept"))
}

/// Keeps a line that a server wrote.
pub(crate) fn keep(line: &str) {
    if let Some(mut file) = file("stdout") {
        // One write in append mode: servers that run at the same time do not mix their lines.
        file.write_all(format!("{line}\n").as_bytes()).expect("the log is kept");
    }
}

/// Has a server log more than it does by default, and keeps what it writes to stderr.
pub(crate) fn prepare(command: &mut Command) {
    if let Some(stderr) = file("stderr") {
        command.stderr(Stdio::from(stderr));
        if !command.get_envs().any(|(name, _)| name == "LOG__LEVEL") {
            command.env("LOG__LEVEL", "debug");
        }
    }
}

/// Keeps what servers in this very process log.
pub(crate) fn subscribe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let Some(file) = file("inside") else { return };
        let lines = tracing_subscriber::fmt().json().with_max_level(tracing::Level::DEBUG);
        lines.with_writer(std::sync::Mutex::new(file)).init();
    });
}
