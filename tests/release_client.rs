//! The command line on the releases of a repository, against a real server that may be killed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers as well")]

#[allow(dead_code, reason = "each test binary uses its part")]
mod process;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use process::{MIB, Server, Signal, TOKEN, body};
use tempfile::TempDir;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    #[track_caller]
    fn badly(self, because: &str) {
        assert_eq!(self.code, Some(1), "{}", self.stderr);
        assert!(self.stderr.contains(because), "{}", self.stderr);
    }
}

fn command(url: &str, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_release-server"));
    command.env_clear().env("RELEASE_SERVER_URL", url).env("RELEASE_SERVER_TOKEN", TOKEN);
    command.current_dir(folder).args(arguments).args(["--repo", "acme/app"]);
    command
}

fn run(server: &Server, folder: &TempDir, arguments: &[&str]) -> Ended {
    let output = command(&server.url(""), folder.path(), arguments).output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

#[test]
fn a_release_is_published_listed_downloaded_and_deleted() {
    let store = TempDir::new().unwrap();
    let server = Server::start(store.path(), &[]);
    let dist = folder(&[("app.zip", b"one"), ("app.tar.gz", b"two")]);
    let upload = ["upload", "app.zip", "app.tar.gz", "--tag", "v1", "--jobs", "2", "--notes", "First"];
    let stdout = run(&server, &dist, &upload).well();
    assert!(stdout.contains("/acme/app/releases/download/v1/app.zip"), "{stdout}");
    // The same again is a success, other bytes are not unless that is said.
    run(&server, &dist, &upload).well();
    fs::write(dist.path().join("app.zip"), "three").unwrap();
    run(&server, &dist, &["upload", "app.zip", "--tag", "v1"]).badly("Validation Failed");
    run(&server, &dist, &["upload", "app.zip", "--tag", "v1", "--overwrite"]).well();
    run(&server, &dist, &["upload", "app.zip", "--tag", "v2", "--draft"]).well();

    let list = run(&server, &dist, &["list"]).well();
    assert!(list.contains("published   v1") && list.contains("draft       v2"), "{list}");
    let list = run(&server, &dist, &["list", "--tag", "v1"]).well();
    assert!(list.contains("app.zip") && list.contains("app.tar.gz"), "{list}");
    let json: serde_json::Value =
        serde_json::from_str(&run(&server, &dist, &["list", "--json"]).well()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);

    let here = folder(&[]);
    run(&server, &here, &["download", "app.zip"]).well();
    run(&server, &here, &["download", "--match", "tar", "--tag", "v1", "-o", "x"]).well();
    assert_eq!(fs::read(here.path().join("app.zip")).unwrap(), b"three");
    assert_eq!(fs::read(here.path().join("x")).unwrap(), b"two");
    run(&server, &here, &["download", "other", "--tag", "v1"]).badly("has no asset `other`");
    run(&server, &here, &["download", "app.zip", "--tag", "v9"]).badly("no published release `v9`");

    run(&server, &here, &["delete", "app.zip", "--tag", "v1"]).well();
    run(&server, &here, &["download", "app.zip", "--tag", "v1"]).badly("has no asset");
    run(&server, &here, &["delete", "--tag", "v1"]).well();
    run(&server, &here, &["delete", "--tag", "v2"]).well();
    run(&server, &here, &["delete", "--tag", "v2"]).badly("has no release `v2`");
}

#[test]
fn a_list_has_more_releases_than_an_answer_of_the_server() {
    let store = TempDir::new().unwrap();
    let server = Server::start(store.path(), &[]);
    let releases = server.url("/api/v3/repos/acme/app/releases");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client = reqwest::Client::new();
        for number in 0..101 {
            let draft = serde_json::json!({"tag_name": format!("v{number}"), "draft": true});
            let created = client.post(&releases).bearer_auth(TOKEN).json(&draft).send().await.unwrap();
            assert_eq!(created.status(), 201);
        }
    });
    let here = folder(&[]);
    let json: Vec<serde_json::Value> =
        serde_json::from_str(&run(&server, &here, &["list", "--json"]).well()).unwrap();
    assert_eq!(json.len(), 101);
    let table = run(&server, &here, &["list"]).well();
    assert_eq!(table.lines().count(), 1 + 101);
}

#[test]
fn an_upload_that_was_interrupted_is_repeated_and_ends_right() {
    let store = TempDir::new().unwrap();
    let names: Vec<String> = (0..5).map(|number| format!("{number}.bin")).collect();
    let files: Vec<_> = (0..5).map(|seed| body(seed, 3 * MIB)).collect();
    let pairs: Vec<(&str, &[u8])> =
        names.iter().map(String::as_str).zip(files.iter().map(|file| &file[..])).collect();
    let dist = folder(&pairs);
    for pause in [0, 30, 60, 90, 120, 180, 250] {
        let tag = format!("v{pause}");
        let mut arguments = vec!["upload", "--tag", &tag];
        arguments.extend(names.iter().map(String::as_str));
        let server = Server::start(store.path(), &[]);
        let mut client = command(&server.url(""), dist.path(), &arguments);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(pause));
        server.signal(Signal::KILL);
        client.kill().unwrap();
        client.wait().unwrap();
        drop(server);

        let server = Server::start(store.path(), &[]);
        run(&server, &dist, &arguments).well();
        let here = folder(&[]);
        for (name, bytes) in &pairs {
            run(&server, &here, &["download", name, "--tag", &tag]).well();
            assert!(fs::read(here.path().join(name)).unwrap() == *bytes, "{name}");
        }
    }
}
