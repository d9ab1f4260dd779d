//! Servers as real processes, to be signalled and killed, and a client that says what they acknowledged.
//!
//! The rounds are few by default; `RELEASE_SERVER_TEST_ROUNDS` multiplies them.

#[path = "../logs/mod.rs"]
mod logs;

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use bytes::Bytes;
use reqwest::{Body, StatusCode};
pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde::Deserialize;
use serde_json::Value;

pub(crate) const TOKEN: &str = "correct-horse";
pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * KIB;

/// Every block of a body says whose it is and where it belongs.
const BLOCK: usize = 4096;

/// By how much the default number of rounds is multiplied.
pub(crate) fn scale() -> usize {
    std::env::var("RELEASE_SERVER_TEST_ROUNDS").map_or(1, |rounds| rounds.parse().expect("a number"))
}

/// A body that no other seed has, and of which no two blocks are equal.
pub(crate) fn body(seed: u64, size: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(size + BLOCK);
    let filling: Vec<u8> = sha256_of(&seed.to_be_bytes()).as_ref().repeat(BLOCK / 32);
    for index in 0..size.div_ceil(BLOCK) as u64 {
        bytes.extend_from_slice(&seed.to_be_bytes());
        bytes.extend_from_slice(&index.to_be_bytes());
        bytes.extend_from_slice(&filling[16..]);
    }
    bytes.truncate(size);
    bytes.into()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(sha256_of(bytes))
}

fn sha256_of(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

/// The program on a directory, with a token and a free port and no other settings but these.
pub(crate) fn command(directory: &Path, settings: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_release-server"));
    command.env_clear().env("CONFIG_PATH", "/dev/null").env("STORAGE_PATH", directory);
    command.envs([
        ("BIND_ADDRESS", "127.0.0.1"),
        ("PORT", "0"),
        ("AUTH_TOKEN", TOKEN),
        ("LOG__FORMAT", "json"),
    ]);
    command.envs(settings.iter().copied()).args(arguments);
    command
}

/// A server in a process of its own, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Server {
    /// Starts a server on a free port and waits until it says where it is.
    pub(crate) fn start(directory: &Path, settings: &[(&str, &str)]) -> Self {
        Self::spawn(command(directory, settings, &["serve"]))
    }

    /// As [`Server::start`], from a command that may be wrapped in another.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_watched(command, |_| ())
    }

    /// As [`Server::spawn`]; `watch` sees the process before anybody waits for it.
    pub(crate) fn spawn_watched(mut command: Command, watch: impl FnOnce(&mut Child)) -> Self {
        logs::prepare(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        watch(&mut child);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = Arc::<Mutex<Vec<Value>>>::default();
        let (found, address) = mpsc::channel();
        let kept = Arc::clone(&log);
        // To its end, or the server would wait for somebody to read.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                logs::keep(&line);
                let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if let Some(address) = line["address"].as_str() {
                    let _ = found.send(address.parse().unwrap());
                }
                kept.lock().unwrap().push(line);
            }
        });
        let address = address.recv_timeout(Duration::from_secs(30)).expect("the server starts");
        Self { child, address, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The process's number, under which the kernel says what it uses.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines logged so far with this `event`.
    pub(crate) fn logged(&self, event: &str) -> Vec<Value> {
        self.log.lock().unwrap().iter().filter(|line| line["event"] == event).cloned().collect()
    }

    /// Sends a signal; after `Signal::KILL` nothing is finished, nothing tidied up.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to end by itself.
    pub(crate) fn ended(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the server still runs after {within:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A package, as a listing or an upload's answer has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) size: usize,
    pub sha256: Option<String>,
}

/// Asks servers; an error is a connection that broke before the answer was whole.
#[derive(Clone)]
pub(crate) struct Client(reqwest::Client);

impl Client {
    pub(crate) fn new() -> Self {
        // A retry of its own would hide what the server did.
        let client = reqwest::Client::builder().no_proxy().retry(reqwest::retry::never());
        Self(client.timeout(Duration::from_mins(2)).build().unwrap())
    }

    pub(crate) async fn put(
        &self,
        server: &Server,
        name: &str,
        body: impl Into<Body>,
        overwrite: bool,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let url = server.url(&format!("/assets/{name}?overwrite={overwrite}"));
        let answer = self.0.put(url).bearer_auth(TOKEN).body(body).send().await?;
        let status = answer.status();
        Ok((status, answer.json().await?))
    }

    pub(crate) async fn delete(&self, server: &Server, name: &str) -> reqwest::Result<StatusCode> {
        let url = server.url(&format!("/assets/{name}"));
        Ok(self.0.delete(url).bearer_auth(TOKEN).send().await?.status())
    }

    /// The status, the digest that the server declares, and the body.
    pub(crate) async fn get(
        &self,
        server: &Server,
        name: &str,
    ) -> reqwest::Result<(StatusCode, Option<String>, Bytes)> {
        let answer = self.0.get(server.url(&format!("/assets/{name}"))).send().await?;
        let declared = answer.headers().get("repr-digest").map(|value| value.to_str().unwrap().to_owned());
        Ok((answer.status(), declared, answer.bytes().await?))
    }

    pub(crate) async fn list(&self, server: &Server) -> reqwest::Result<Vec<Listed>> {
        self.0.get(server.url("/packages")).send().await?.error_for_status()?.json().await
    }
}

/// The `Repr-Digest` of bytes.
pub(crate) fn repr_digest(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    format!("sha-256=:{}:", BASE64_STANDARD.encode(sha256_of(bytes)))
}

/// The names in one of the server's own folders.
pub(crate) fn control(directory: &Path, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join(".release-server").join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits for something that is to come about.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
