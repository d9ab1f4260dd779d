//! The program itself in a process of its own, and what it logs.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use super::{
    logs,
    server::{DEADLINE, TOKEN},
};

/// Nobody, by the convention of most systems: a user whom permissions bind.
pub(crate) const NOBODY: u32 = 65_534;

/// A running server; ended when dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) url: String,
    /// What it said when it listened.
    pub(crate) started: Value,
    pub(crate) log: mpsc::Receiver<String>,
}

impl Program {
    /// Serves `folder` on a free port, not as root.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::configured(folder, &[])
    }

    /// The same with these variables too.
    pub(crate) fn configured(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_release-server"));
        command
            .env_clear()
            .current_dir(folder)
            .env("STORAGE_PATH", folder)
            .env("AUTH_TOKEN", TOKEN)
            .env("PORT", "0")
            .env("BIND_ADDRESS", "127.0.0.1")
            .env("LOG__LEVEL", "trace")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
            command.uid(NOBODY).gid(NOBODY);
        }
        logs::prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let (send, log) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || {
            // To its end, though nobody listens any more: what is said last is kept too.
            for line in lines.map_while(Result::ok) {
                logs::keep(&line);
                let _ = send.send(line);
            }
        });
        let mut program = Self { child, url: String::new(), started: Value::Null, log };
        program.started = program.logged("startup");
        program.url = program.started["url"].as_str().unwrap().to_owned();
        program
    }

    /// The next line of this event.
    pub(crate) fn logged(&self, event: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no `{event}` is logged"));
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if line["event"] == event {
                return line;
            }
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.url)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
