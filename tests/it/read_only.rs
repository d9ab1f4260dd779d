//! Maintenance: everything can be read, nothing is written, by anybody.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use reqwest::Client;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{
    program::Program,
    server::{LONG_AGO, TOKEN},
};

const READ_ONLY: [(&str, &str); 3] =
    [("READ_ONLY", "true"), ("MAX_PACKAGES", "1"), ("RETENTION__INTERVAL", "1s")];

/// A directory of files copied in by hand, which no server has seen and this one may not write.
fn untouched() -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["a.zip", "b.zip"] {
        let file = folder.path().join(name);
        fs::write(&file, "abc").unwrap();
        fs::File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH + LONG_AGO)
            .unwrap();
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_directory_that_may_not_be_written_is_served_and_left_as_it_is() {
    let folder = untouched();
    let program = Program::configured(folder.path(), &READ_ONLY);
    for (path, status) in [("/readyz", 200), ("/latest", 200), ("/packages", 200), ("/assets/b.zip", 200)] {
        assert_eq!(program.get(path).await.0, status, "{path}");
    }
    // The hasher and the sweep would have been by.
    sleep(Duration::from_secs(4)).await;
    assert_eq!(names(folder.path()), ["a.zip", "b.zip"]);
}

#[tokio::test]
async fn a_change_is_put_off() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("app.zip"), "abc").unwrap();
    let program = Program::configured(folder.path(), &READ_ONLY);
    let client = Client::new();
    let asset = |name: &str| format!("{}/assets/{name}", program.url);
    let form =
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"new.zip\"\r\n\r\nabc\r\n--b--\r\n";
    for request in [
        client.put(asset("new.zip")).body("abc"),
        client.put(asset("app.zip?overwrite=true")).body("abcd"),
        client.delete(asset("app.zip")),
        client
            .post(format!("{}/upload", program.url))
            .header("content-type", "multipart/form-data; boundary=b")
            .body(form),
    ] {
        // Who may not write learns nothing.
        assert_eq!(request.try_clone().unwrap().send().await.unwrap().status(), 401);
        let answer = request.bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "60");
        let text = answer.text().await.unwrap();
        assert!(text.contains("read-only") && text.contains("maintenance"), "{text}");
    }
    assert_eq!(names(folder.path()), ["app.zip"]);
}

#[test]
fn commands_that_write_are_refused() {
    let folder = untouched();
    for command in ["sweep", "doctor"] {
        let ended = Command::new(env!("CARGO_BIN_EXE_release-server"))
            .arg(command)
            .env_clear()
            .env("READ_ONLY", "1")
            .env("STORAGE_PATH", folder.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&ended.stderr);
        assert!(!ended.status.success() && error.contains("read"), "{error}");
    }
    assert_eq!(names(folder.path()), ["a.zip", "b.zip"]);
}
