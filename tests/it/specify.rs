//! From a publisher's upload to a template on somebody's disk, as the Spec Kit CLI fetches it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    server::{Form, Server, TOKEN, sha256, snapshot},
    templates::{archives, unzip},
};

/// What `specify init --template-url URL` does: the first asset that fits, streamed, its length checked.
async fn fetch(template_url: &str, agent: &str, script: &str) -> Vec<u8> {
    let client = reqwest::Client::new();
    let release = client.get(template_url).bearer_auth("ghp_foreign").send().await.unwrap();
    assert_eq!(release.status(), 200);
    let release: Value = release.json().await.unwrap();
    assert_eq!(release["tag_name"], "latest");

    let pattern = format!("spec-kit-template-{agent}-{script}");
    let fits = |asset: &&Value| {
        let name = asset["name"].as_str().unwrap();
        name.contains(&pattern) && Path::new(name).extension().is_some_and(|extension| extension == "zip")
    };
    let asset = release["assets"].as_array().unwrap().iter().find(fits).expect("no template fits");
    let size = asset["size"].as_u64().unwrap();

    let link = asset["browser_download_url"].as_str().unwrap();
    let mut answer = client.get(link).header("accept-encoding", "gzip, deflate, br").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers().get("content-encoding"), None);
    assert_eq!(answer.headers()["content-length"], size.to_string());
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    assert_eq!(bytes.len() as u64, size);
    assert_eq!(asset["digest"], format!("sha256:{}", sha256(&bytes)));
    bytes
}

/// What an archive holds, by path.
fn unzipped(archive: &[u8]) -> BTreeMap<PathBuf, Vec<u8>> {
    let folder = TempDir::new().unwrap();
    let (file, root) = (folder.path().join("archive.zip"), folder.path().join("files"));
    fs::write(&file, archive).unwrap();
    unzip(&file, &root);
    let relative = |path: PathBuf| path.strip_prefix(&root).unwrap().to_owned();
    snapshot(&root).into_iter().map(|(path, (bytes, _))| (relative(path), bytes)).collect()
}

#[tokio::test]
async fn a_release_of_34_templates_is_published_and_one_is_fetched() {
    let server = Server::configured(&[("AUTH_TOKEN", TOKEN), ("MAX_PACKAGES", "50")]);
    let port = server.listen().await;
    let folder = TempDir::new().unwrap();
    let templates = archives(folder.path());
    assert_eq!(templates.len(), 34);

    let client = reqwest::Client::new();
    for (number, path) in templates.iter().enumerate() {
        let (name, bytes) = (path.file_name().unwrap().to_str().unwrap(), fs::read(path).unwrap());
        let digest = sha256(&bytes);
        let upload = if number % 2 == 0 {
            let form = client.post(port.url("/upload")).header("content-type", Form::TYPE);
            form.body(Form::file(name, &bytes).body())
        } else {
            client.put(port.url(&format!("/assets/{name}"))).header("x-checksum-sha256", &digest).body(bytes)
        };
        let answer = upload.bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
        assert_eq!(answer.json::<Value>().await.unwrap()["sha256"], digest);
    }
    assert_eq!(server.names().await.len(), 34);

    for (agent, script) in [("claude", "sh"), ("claude", "ps"), ("bob", "ps"), ("q", "sh")] {
        let original = templates
            .iter()
            .find(|path| path.to_str().unwrap().contains(&format!("template-{agent}-{script}-")))
            .unwrap();
        let original = fs::read(original).unwrap();
        let fetched = fetch(&port.url("/latest"), agent, script).await;
        assert!(fetched == original, "{agent} {script}: other bytes");
        let files = unzipped(&fetched);
        assert!(files.len() > 5 && files == unzipped(&original), "{agent} {script}");
    }

    // The next release is what the first match finds from then on.
    let next = "spec-kit-template-claude-sh-v0.0.92.zip";
    let bytes = fs::read(&templates[1]).unwrap();
    server.put(next, bytes.clone()).await.ok();
    assert!(fetch(&port.url("/releases/latest"), "claude", "sh").await == bytes);
}
