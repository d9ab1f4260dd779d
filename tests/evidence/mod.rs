//! What a test that attacks the server found, in numbers, for the table that `just prove` makes of them.
//!
//! A test counts while it runs, records, and asserts afterwards, so that a loss would stand in the table too. Each record
//! is a line of JSON, added to the file that `RELEASE_SERVER_EVIDENCE` names; without it nothing is written.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{fs::OpenOptions, io::Write as _};

use serde::Serialize;

/// A row of the table of faults.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Evidence {
    /// What was done to the server, as a reader would say it: "killed at every system call of an upload".
    pub(crate) attack: &'static str,
    /// What it ran on: "directory", "S3, simulated", "MinIO", "the network".
    pub(crate) on: &'static str,
    /// How many cases were tried.
    pub(crate) cases: usize,
    /// What a case is, in the plural: "system calls", "histories".
    pub(crate) of: &'static str,
    /// Uploads or changes that were acknowledged and are gone.
    pub(crate) lost: usize,
    /// Bytes, listings or answers that no order of the operations explains.
    pub(crate) wrong: usize,
    /// Operations or servers that gave no answer in time.
    pub(crate) hung: usize,
}

impl Evidence {
    /// Writes the row down.
    pub(crate) fn record(&self) {
        let Some(path) = std::env::var_os("RELEASE_SERVER_EVIDENCE") else { return };
        let mut line = serde_json::to_vec(self).expect("plain fields");
        line.push(b'\n');
        // One write in append mode: programs that run at the same time do not mix their lines.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(&line))
            .expect("the evidence is written");
    }

    /// Writes the row down, and fails with what was found.
    #[track_caller]
    pub(crate) fn judge(&self, faults: &[String]) {
        self.record();
        assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    }
}
