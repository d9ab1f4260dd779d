//! A directory that others write to as well: one bad entry never takes the rest down.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::symlink, net::UnixListener},
    process::Command,
};

use release_server::storage::Storage;
use tempfile::TempDir;

use super::server::{LONG_AGO, Server, eventually, modified, sha256, snapshot};

/// A store with a good package, and one bad entry after another beside it; each must leave it as it is.
async fn assert_ignored(make: impl FnOnce(&Server), name: &str) {
    let server = Server::start();
    server.copy_in("good.zip", "abc");
    make(&server);
    assert_eq!(server.names().await, ["good.zip"], "{name}");
    assert_eq!(server.get("/assets/good.zip").await.ok().text(), "abc", "{name}");
    server.get("/latest").await.ok();
    server.get("/packages?format=html").await.ok();

    let before = snapshot(server.outside());
    for answer in
        [server.get(&format!("/assets/{name}")).await, server.delete(&format!("/assets/{name}")).await]
    {
        // 400 for what is not even text.
        assert!([400, 404].contains(&answer.status), "{name}: {answer:?}");
        answer.refused(answer.status, "");
    }
    let put = server.put(name, "mine").await;
    assert!([400, 409].contains(&put.status), "{name}: {put:?}");
    put.refused(put.status, "");
    server.hashed().await;
    for _ in 0..2 {
        server.sweep().await;
    }
    assert_eq!(snapshot(server.outside()), before, "{name}");
    server.put("new.zip", "abc").await.ok();
    assert_eq!(server.names().await, ["new.zip", "good.zip"], "{name}");
}

#[tokio::test]
async fn a_link_out_of_the_store_is_not_followed() {
    let server = Server::start();
    fs::write(server.outside().join("secret"), "secret").unwrap();
    symlink("../secret", server.path("link.zip")).unwrap();
    symlink("/etc", server.path("etc")).unwrap();
    assert_eq!(server.names().await, [""; 0]);
    for path in ["/assets/link.zip", "/assets/etc", "/assets/etc%2fpasswd", "/assets/etc/passwd"] {
        server.get(path).await.refused(404, "");
    }
    server.put("link.zip", "mine").await.refused(409, "already exists");
    server.put("link.zip?overwrite=true", "mine").await.ok();
    assert_eq!(fs::read_to_string(server.outside().join("secret")).unwrap(), "secret");
    assert_eq!(server.get("/assets/link.zip").await.ok().text(), "mine");
}

#[tokio::test]
async fn a_link_to_another_package_is_not_a_package() {
    let server = Server::start();
    server.copy_in("good.zip", "abc");
    symlink("good.zip", server.path("link.zip")).unwrap();
    assert_eq!(server.names().await, ["good.zip"]);
    server.get("/assets/link.zip").await.refused(404, "does not exist");
    server.delete("/assets/link.zip").await.refused(404, "does not exist");
    assert_eq!(server.files(), ["good.zip", "link.zip"]);
}

#[tokio::test]
async fn a_dangling_link_is_ignored() {
    let server = Server::start();
    symlink("nowhere", server.path("link.zip")).unwrap();
    server.copy_in("good.zip", "abc");
    assert_eq!(server.names().await, ["good.zip"]);
    server.get("/assets/link.zip").await.refused(404, "does not exist");
}

#[tokio::test]
async fn a_loop_of_links_is_ignored() {
    let server = Server::start();
    symlink("two", server.path("one")).unwrap();
    symlink("one", server.path("two")).unwrap();
    symlink(".", server.path("self")).unwrap();
    server.copy_in("good.zip", "abc");
    assert_eq!(server.names().await, ["good.zip"]);
    for name in ["one", "two", "self"] {
        server.get(&format!("/assets/{name}")).await.refused(404, "does not exist");
    }
}

#[tokio::test]
async fn a_link_in_the_place_of_a_folder_of_the_servers_own_is_refused_at_start() {
    for folder in ["repos", ".release-server", ".release-server/stage", ".release-server/packages"] {
        let outside = TempDir::new().unwrap();
        let store = outside.path().join("store");
        fs::create_dir_all(store.join(folder).parent().unwrap()).unwrap();
        fs::create_dir(outside.path().join("elsewhere")).unwrap();
        symlink(outside.path().join("elsewhere"), store.join(folder)).unwrap();
        for dangling in [false, true] {
            if dangling {
                fs::remove_dir(outside.path().join("elsewhere")).unwrap();
            }
            let refused = Storage::directory(&store, 1 << 20).unwrap_err().to_string();
            assert!(refused.contains(folder) && refused.contains("symbolic link"), "{refused}");
            let refused = Storage::directory_to_read(&store).unwrap_err().to_string();
            assert!(refused.contains("symbolic link"), "{refused}");
            assert_eq!(fs::read_dir(outside.path().join("elsewhere")).map_or(0, Iterator::count), 0);
        }
    }
}

#[tokio::test]
async fn a_package_changed_by_another_name_of_it_loses_its_digest() {
    let server = Server::start();
    server.put("app.zip", "old").await.ok();
    assert_eq!(server.get("/assets/app.zip").await.ok().text(), "old");
    let other = server.outside().join("other");
    fs::hard_link(server.path("app.zip"), &other).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&other).unwrap();
    file.write_all(b"er").unwrap();
    // No note comes of a change by a name in another folder: it shows a second later. Until then all is as it was.
    eventually("the change shows", async || {
        let answer = server.get("/assets/app.zip").await.ok();
        let declared = answer.headers.contains_key("repr-digest");
        assert!(answer.text() == "older" || declared, "{answer:?}");
        answer.text() == "older" && !declared
    })
    .await;
    eventually("the change is listed", async || server.listed("app.zip").await["size"] == 5).await;
    assert_eq!(server.listed("app.zip").await["sha256"], serde_json::Value::Null);
    server.hashed().await;
    assert_eq!(server.listed("app.zip").await["sha256"], sha256(b"older"));
    assert_eq!(server.delete("/assets/app.zip").await.status, 204);
    assert_eq!(fs::read_to_string(&other).unwrap(), "older", "the other name is not ours");
}

#[tokio::test]
async fn a_package_with_two_names_is_two_packages() {
    let server = Server::start();
    server.put("a.zip", "abc").await.ok();
    fs::hard_link(server.path("a.zip"), server.path("b.zip")).unwrap();
    modified(&server.path("a.zip"), LONG_AGO);
    server.hashed().await;
    for name in ["a.zip", "b.zip"] {
        assert_eq!(server.listed(name).await["sha256"], sha256(b"abc"), "{name}");
    }
    server.put("b.zip?overwrite=true", "other").await.ok();
    assert_eq!(server.get("/assets/a.zip").await.ok().text(), "abc");
    assert_eq!(server.delete("/assets/b.zip").await.status, 204);
    assert_eq!(server.get("/assets/a.zip").await.ok().text(), "abc");
    assert_eq!(server.names().await, ["a.zip"]);
}

#[tokio::test]
async fn a_folder_is_ignored() {
    let make = |server: &Server| {
        fs::create_dir(server.path("lost+found")).unwrap();
        fs::write(server.path("lost+found/#123"), "x").unwrap();
    };
    assert_ignored(make, "lost+found").await;
}

#[tokio::test]
async fn a_pipe_is_ignored_and_nobody_waits_for_its_other_end() {
    let server = Server::start();
    server.copy_in("good.zip", "abc");
    assert!(Command::new("mkfifo").arg(server.path("pipe.zip")).status().unwrap().success());
    assert_eq!(server.names().await, ["good.zip"]);
    server.get("/assets/pipe.zip").await.refused(404, "does not exist");
    server.put("pipe.zip", "mine").await.refused(409, "already exists");
    server.sweep().await;
}

#[tokio::test]
async fn a_socket_is_ignored() {
    let server = Server::start();
    server.copy_in("good.zip", "abc");
    let _socket = UnixListener::bind(server.path("socket")).unwrap();
    assert_eq!(server.names().await, ["good.zip"]);
    server.get("/assets/socket").await.refused(404, "does not exist");
}

#[tokio::test]
async fn a_name_with_a_control_character_is_ignored() {
    for (name, path) in [("a\nb.zip", "a%0Ab.zip"), ("a\u{1b}[31m.zip", "a%1B%5B31m.zip"), ("\u{7f}", "%7F")]
    {
        assert_ignored(|server| fs::write(server.path(name), "x").unwrap(), path).await;
    }
}

#[tokio::test]
async fn a_name_that_is_not_utf8_is_ignored() {
    let make =
        |server: &Server| fs::write(server.path(".").join(OsStr::from_bytes(b"\xff\xfe.zip")), "x").unwrap();
    assert_ignored(make, "%FF%FE.zip").await;
}

#[tokio::test]
async fn a_name_with_a_backslash_is_ignored() {
    assert_ignored(|server| fs::write(server.path("a\\b.zip"), "x").unwrap(), "a%5Cb.zip").await;
}

#[tokio::test]
async fn a_hidden_file_is_ignored() {
    assert_ignored(|server| fs::write(server.path(".hidden"), "x").unwrap(), ".hidden").await;
}

#[tokio::test]
async fn odd_names_that_are_packages_are_listed() {
    let server = Server::start();
    // Of one time, so sorted by name.
    let names = ["#", "%2e", "-", "a b", "a:b", "u\u{308}", "|", "~", "ü"];
    for name in names {
        server.copy_in(name, name);
    }
    assert_eq!(server.names().await, names);
    for package in server.get("/packages").await.ok().json().as_array().unwrap() {
        let path = package["url"].as_str().unwrap().replace("http://127.0.0.1:8000", "");
        assert_eq!(server.get(&path).await.ok().text(), package["name"]);
    }
}

#[tokio::test]
async fn foreign_files_among_the_servers_own_are_ignored() {
    let server = Server::start();
    server.put("app.zip", "abc").await.ok();
    let own = server.path(".release-server/packages");
    fs::write(own.join("README"), "x").unwrap();
    fs::write(own.join("8cbdffc785836db6a6c3d4ba8438ef74.x.y.z.published-1"), "x").unwrap();
    fs::create_dir(own.join("folder")).unwrap();
    assert_eq!(server.names().await, ["app.zip"]);
    server.sweep().await;
    assert_eq!(server.listed("app.zip").await["sha256"], sha256(b"abc"));
    assert!(own.join("README").exists(), "what is not ours was removed");
}
