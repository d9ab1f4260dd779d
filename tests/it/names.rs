//! What a package may be called: no name leaves the store, and each refusal says which rule it breaks.

use std::fs;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::server::{Form, Server, entries, snapshot};

/// Percent-encoded to the last byte, so that a name reaches the server as it is.
fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// Names, and the rule that each breaks.
fn bad_names() -> Vec<(String, &'static str)> {
    let long = |count| "x".repeat(count);
    let mut names: Vec<(String, &str)> = [
        ("../x", "path separator"),
        ("../../../../etc/passwd", "path separator"),
        ("/etc/passwd", "path separator"),
        ("a/../../x", "path separator"),
        ("a/b.zip", "path separator"),
        ("x/", "path separator"),
        ("..\\x", "path separator"),
        ("C:\\x", "path separator"),
        ("\\\\host\\share", "path separator"),
        (".release-server/layout-1", "path separator"),
        ("repos/a/b", "path separator"),
        (".", "begins with a dot"),
        ("..", "begins with a dot"),
        ("...", "begins with a dot"),
        (".release-server", "begins with a dot"),
        (".htaccess", "begins with a dot"),
        ("repos", "repositories"),
        ("a\0b", "control character"),
        ("a\nb", "control character"),
        ("a\rb", "control character"),
        ("a\tb", "control character"),
        ("a\u{1b}[31m", "control character"),
        ("a\u{7f}", "control character"),
        ("a\u{9f}", "control character"),
        ("u\u{308}.zip", "normalization form C"),
        ("e\u{301}.zip", "normalization form C"),
        ("A\u{30a}.zip", "normalization form C"),
        (" a.zip", "white space"),
        ("a.zip ", "white space"),
        ("a.zip\u{3000}", "white space"),
        ("photo\u{202e}gpj.exe", "direction-changing"),
        ("a\u{200b}.zip", "invisible"),
        ("\u{feff}a.zip", "invisible"),
    ]
    .map(|(name, rule)| (name.to_owned(), rule))
    .into();
    names.extend([201, 255, 256, 5000].map(|count| (long(count), "longer than 200 bytes")));
    names.push(("ö".repeat(101), "longer than 200 bytes"));
    names
}

#[tokio::test]
async fn no_bad_name_is_published_and_each_is_told_the_rule() {
    let server = Server::start();
    fs::write(server.outside().join("x"), "mine").unwrap();
    let before = snapshot(server.outside());
    for (name, rule) in bad_names() {
        for overwrite in ["", "?overwrite=true"] {
            let raw = server.put(&format!("{}{overwrite}", encoded(&name)), "bad").await;
            raw.refused(400, rule);
            // In a form these would be the form's own syntax.
            if !name.contains(|char: char| char.is_control() || char == '\\') {
                let form = server.post(&format!("/upload{overwrite}"), &Form::file(&name, b"bad")).await;
                form.refused(400, rule);
            }
        }
    }
    assert_eq!(snapshot(server.outside()), before);
    assert_eq!(entries(server.outside()), ["store", "x"]);
    server.assert_stored_nothing();
}

#[tokio::test]
async fn no_name_reads_or_deletes_what_is_not_a_package() {
    let server = Server::start();
    fs::write(server.outside().join("x"), "mine").unwrap();
    fs::create_dir(server.path("repos")).unwrap();
    fs::create_dir(server.path("folder")).unwrap();
    fs::write(server.path("folder/x"), "mine").unwrap();
    fs::write(server.path(".hidden"), "mine").unwrap();
    let before = snapshot(server.outside());
    let more =
        ["folder", "folder/x", ".hidden", ".release-server/lock", ""].map(|name| (name.to_owned(), ""));
    for (name, _) in bad_names().into_iter().chain(more) {
        for answer in [
            server.get(&format!("/assets/{}", encoded(&name))).await,
            server.delete(&format!("/assets/{}", encoded(&name))).await,
            server.delete(&format!("/packages/{}", encoded(&name))).await,
        ] {
            answer.refused(404, "");
        }
        assert_eq!(server.head(&format!("/assets/{}", encoded(&name))).await.status, 404, "{name:?}");
    }
    assert_eq!(snapshot(server.outside()), before);
}

/// Each as it would be written by who tries to get out.
#[tokio::test]
async fn no_spelling_of_a_path_gets_out() {
    let server = Server::start();
    fs::write(server.outside().join("x"), "mine").unwrap();
    let before = snapshot(server.outside());
    for path in [
        "../x",
        "..%2fx",
        "..%2Fx",
        "%2e%2e/x",
        "%2e%2e%2fx",
        "%2E%2E%2Fx",
        ".%2e/x",
        "..%5cx",
        "%2fetc%2fpasswd",
        "%2e",
        "%2e%2e",
        "..;/x",
        "a/..%2f..%2fx",
        "%c0%ae%c0%ae%c0%afx",
        "%00",
        "x%00.zip",
        "%e0%80%af",
    ] {
        let asset = format!("/assets/{path}");
        let get = server.get(&asset).await;
        assert!([400, 404].contains(&get.status), "{path}: {get:?}");
        get.refused(get.status, "");
        let put = server.put(path, "bad").await;
        assert!([400, 404].contains(&put.status), "{path}: {put:?}");
        put.refused(put.status, "");
        let delete = server.delete(&asset).await;
        assert!([400, 404].contains(&delete.status), "{path}: {delete:?}");
    }
    assert_eq!(snapshot(server.outside()), before);
    server.assert_stored_nothing();
}

#[tokio::test]
async fn what_is_encoded_twice_is_decoded_once() {
    let server = Server::start();
    let package = server.put("%252e%252e%252fx", "abc").await.ok().json();
    assert_eq!(package["name"], "%2e%2e%2fx");
    assert_eq!(server.files(), ["%2e%2e%2fx"]);
    assert_eq!(server.get("/assets/%252e%252e%252fx").await.ok().text(), "abc");
    assert!(package["url"].as_str().unwrap().ends_with("/assets/%252e%252e%252fx"), "{package}");
    server.get("/assets/%2e%2e%2fx").await.refused(404, "does not exist");
}

#[tokio::test]
async fn every_other_name_is_welcome_and_comes_back() {
    let server = Server::start().with(|config| config.max_packages = Some(0));
    let longest = "x".repeat(200);
    for name in [
        "app-1.0.0.tar.gz",
        "größe-日本語-🚀.zip",
        "a b (1).zip",
        "100%.zip",
        "what?.zip",
        "a#1&b=c;d,e+f",
        "~x",
        "-rf",
        "x..y",
        "$(reboot)",
        "'quoted'.zip",
        "<b>.zip",
        "index.html",
        "repos.zip",
        "latest",
        "con",
        &longest,
    ] {
        let raw = server.put(&encoded(name), name.to_owned()).await.ok();
        assert_eq!(raw.json()["name"], name);
        let link = raw.json()["url"].as_str().unwrap().replace("http://127.0.0.1:8000", "");
        assert_eq!(server.get(&link).await.ok().text(), name);
        assert_eq!(fs::read_to_string(server.path(name)).unwrap(), name);
        let form = server.post("/upload?overwrite=true", &Form::file(name, b"by form")).await.ok();
        assert_eq!(form.json()["name"], name);
        assert_eq!(server.names().await[0], name);
        assert_eq!(server.delete(&link).await.status, 204);
    }
    server.put("a%22b.zip", "abc").await.ok();
    assert_eq!(server.files(), ["a\"b.zip"]);
}

#[tokio::test]
async fn a_name_in_another_normal_form_is_another_name() {
    let server = Server::start();
    server.put("%C3%BC.zip", "composed").await.ok();
    server.copy_in("u\u{308}.zip", "decomposed");
    assert_eq!(server.get("/assets/%C3%BC.zip").await.ok().text(), "composed");
    assert_eq!(server.get("/assets/u%CC%88.zip").await.ok().text(), "decomposed");
}
