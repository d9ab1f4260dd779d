//! The program itself, as another user where that is the point, and what it logs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use super::server::{DEADLINE, TOKEN};

/// Nobody, by the convention of most systems: a user whom permissions bind.
const NOBODY: u32 = 65_534;

/// A running server; ended when dropped.
struct Program {
    child: Child,
    url: String,
    log: mpsc::Receiver<String>,
}

impl Program {
    /// Serves `folder` on a free port, not as root.
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_release-server"));
        command
            .env_clear()
            .current_dir(folder)
            .env("STORAGE_PATH", folder)
            .env("AUTH_TOKEN", TOKEN)
            .env("PORT", "0")
            .env("BIND_ADDRESS", "127.0.0.1")
            .env("LOG__LEVEL", "trace")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut child = command.spawn().unwrap();
        let (send, log) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        let mut program = Self { child, url: String::new(), log };
        let started = program.logged("startup");
        program.url = format!("http://{}", started["address"].as_str().unwrap());
        program
    }

    /// The next line of this event.
    fn logged(&self, event: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no `{event}` is logged"));
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if line["event"] == event {
                return line;
            }
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
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

#[tokio::test]
async fn what_may_not_be_read_never_takes_the_rest_down() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("good.zip"), "abc").unwrap();
    fs::write(folder.path().join("secret.zip"), "abc").unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    for name in ["secret.zip", "lost+found"] {
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let program = Program::start(folder.path());
    let (status, list) = program.get("/packages").await;
    assert_eq!(status, 200, "{list}");
    assert!(list.contains("good.zip") && !list.contains("lost+found"), "{list}");
    assert_eq!(program.get("/assets/good.zip").await, (200, "abc".to_owned()));
    let (status, refusal) = program.get("/assets/secret.zip").await;
    assert!(status == 503 || status == 404, "{status} {refusal}");
    assert!(refusal.contains("\"message\""), "{refusal}");
    assert_eq!(program.get("/assets/lost+found").await.0, 404);
    assert_eq!(program.get("/latest").await.0, 200);
    assert_eq!(program.get("/readyz").await.0, 200);
    fs::set_permissions(folder.path().join("lost+found"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[tokio::test]
async fn a_store_that_may_not_be_written_is_refused_at_start() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can make a folder that another user may not write");
        return;
    }
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let started = Command::new(env!("CARGO_BIN_EXE_release-server"))
        .env_clear()
        .current_dir("/")
        .env("STORAGE_PATH", folder.path())
        .env("PORT", "0")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    assert!(!started.status.success());
    let error = String::from_utf8(started.stderr).unwrap();
    assert!(error.contains("uid 65534") && error.contains("chown -R 65534:65534"), "{error}");
}

#[tokio::test]
async fn no_token_ever_reaches_the_log() {
    let folder = TempDir::new().unwrap();
    let program = Program::start(folder.path());
    let client = reqwest::Client::new();
    let ask = |path: &str| client.get(format!("{}{path}", program.url)).bearer_auth("ghp_foreign");
    assert_eq!(ask("/latest?token=ghp_query").send().await.unwrap().status(), 200);
    assert_eq!(ask("/ghp_path").send().await.unwrap().status(), 404);
    let put = client.put(format!("{}/assets/app.zip", program.url)).body("abc");
    assert_eq!(put.try_clone().unwrap().bearer_auth("ghp_wrong").send().await.unwrap().status(), 401);
    assert_eq!(put.bearer_auth(TOKEN).send().await.unwrap().status(), 200);
    assert_eq!(client.get(format!("{}/packages", program.url)).send().await.unwrap().status(), 200);

    let mut lines = Vec::new();
    loop {
        let line = program.log.recv_timeout(DEADLINE).expect("the last request is not logged");
        let last = line.contains("/packages\"");
        lines.push(line);
        if last {
            break;
        }
    }
    for line in &lines {
        assert!(!line.contains("ghp_") && !line.contains(TOKEN), "{line}");
        let fields: Value = serde_json::from_str(line).unwrap();
        for field in ["timestamp", "level", "message"] {
            assert!(fields[field].is_string(), "{line}");
        }
    }
    let upload = lines.iter().find(|line| line.contains(r#""event":"upload""#)).expect("no upload is logged");
    let upload: Value = serde_json::from_str(upload).unwrap();
    assert_eq!(upload["package.name"], "app.zip");
    assert_eq!(upload["size_bytes"], 3);
    assert_eq!(upload["level"], "info");
}
