//! The program itself, as another user where that is the point, and what it logs.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    program::{NOBODY, Program},
    server::{DEADLINE, TOKEN},
};

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
    let cookie =
        ask("/latest").header("cookie", "session=cookie-of-a-user").basic_auth("me", Some("ghp_foreign"));
    assert_eq!(cookie.send().await.unwrap().status(), 200);
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let http2 = http2
        .put(format!("{}/assets/b.zip?token=ghp_query", program.url))
        .bearer_auth("ghp_wrong")
        .body("abc");
    assert_eq!(http2.send().await.unwrap().status(), 401);
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
        assert!(
            !line.contains("ghp_") && !line.contains(TOKEN) && !line.contains("cookie-of-a-user"),
            "{line}"
        );
        let fields: Value = serde_json::from_str(line).unwrap();
        for field in ["timestamp", "level", "message"] {
            assert!(fields[field].is_string(), "{line}");
        }
    }
}
