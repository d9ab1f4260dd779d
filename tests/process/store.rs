//! A real store for the servers: a `MinIO` of our own, or whatever two variables name.
//!
//! - `RELEASE_SERVER_TEST_S3_URL=s3://bucket/prefix` with the `AWS_*` variables: that one.
//! - Else the `MinIO` that `RELEASE_SERVER_TEST_MINIO` names, or the one that the continuous integration has cached.
//! - Else none: the tests say in capitals that they are skipped, and pass.

use std::{
    env,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use axum::http::{Method, Request};
use object_store::{
    aws::{AwsAuthorizer, AwsCredential},
    client::HttpRequestBody,
};
use tempfile::TempDir;

use super::process::Server;

const BUCKET: &str = "releases";
const USER: &str = "an-access-key";
const PASSWORD: &str = "a-secret-key";

/// A bucket and a prefix that is nobody else's.
pub(crate) struct Store {
    /// Where it answers, without the bucket.
    pub(crate) endpoint: String,
    pub(crate) bucket: String,
    pub(crate) prefix: String,
    variables: Vec<(String, String)>,
    minio: Option<Minio>,
}

impl Store {
    /// `None` if there is no store to be had, which it has said.
    pub(crate) async fn start(test: &str) -> Option<Self> {
        let prefix = uuid::Uuid::new_v4().simple().to_string();
        if let Ok(url) = env::var("RELEASE_SERVER_TEST_S3_URL") {
            let path = url.strip_prefix("s3://").expect("s3://bucket/prefix");
            let (bucket, parent) = path.split_once('/').unwrap_or((path, "release-server-test"));
            let variables: Vec<_> = env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect();
            let endpoint = variables.iter().find(|(name, _)| name.starts_with("AWS_ENDPOINT"));
            return Some(Self {
                endpoint: endpoint.map(|(_, url)| url.clone()).unwrap_or_default(),
                bucket: bucket.to_owned(),
                prefix: format!("{}/{prefix}", parent.trim_matches('/')),
                variables,
                minio: None,
            });
        }
        let Some(program) = find_minio() else {
            skip(test, "neither `RELEASE_SERVER_TEST_MINIO` nor `RELEASE_SERVER_TEST_S3_URL` is set");
            return None;
        };
        let minio = Minio::start(program);
        let endpoint = format!("http://{}", minio.address);
        let variables = [
            ("AWS_ENDPOINT_URL", &*endpoint),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", USER),
            ("AWS_SECRET_ACCESS_KEY", PASSWORD),
            ("AWS_DISABLE_SYSTEM_CERTIFICATES", "true"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let store = Self { endpoint, bucket: BUCKET.into(), prefix, variables, minio: Some(minio) };
        store.ask(Method::PUT, &format!("/{BUCKET}")).await;
        Some(store)
    }

    /// What it is, for a reader.
    pub(crate) fn on(&self) -> &'static str {
        if self.minio.is_some() { "MinIO" } else { "S3" }
    }

    /// A server on this bucket, by way of `proxy` if there is one.
    pub(crate) fn server(&self, proxy: Option<&str>, settings: &[(&str, &str)]) -> Server {
        let url = format!("s3://{}/{}", self.bucket, self.prefix);
        let mut all = vec![("STORAGE_PATH", ""), ("STORAGE_URL", &*url)];
        all.extend(self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        if let Some(proxy) = proxy {
            all.retain(|(name, _)| !name.starts_with("AWS_ENDPOINT"));
            all.push(("AWS_ENDPOINT_URL", proxy));
            all.push(("AWS_ALLOW_HTTP", "true"));
        }
        all.extend(settings);
        Server::start(Path::new(""), &all)
    }

    /// The store, if it is one that may be stopped.
    pub(crate) fn minio(&mut self, test: &str) -> Option<&mut Minio> {
        if self.minio.is_none() {
            skip(test, "it would stop the store");
        }
        self.minio.as_mut()
    }

    /// How many uploads of exactly this package are unfinished.
    pub(crate) async fn unfinished(&self, name: &str) -> usize {
        let path = format!("/{}?uploads=&prefix={}%2F{name}", self.bucket, self.prefix.replace('/', "%2F"));
        self.ask(Method::GET, &path).await.matches("<Upload>").count()
    }

    /// Puts something into the store without a server.
    pub(crate) async fn put_by_hand(&self, key: &str, body: &'static str) {
        self.send(Method::PUT, &format!("/{}/{}/{key}", self.bucket, self.prefix), body).await;
    }

    async fn ask(&self, method: Method, path: &str) -> String {
        self.send(method, path, "").await
    }

    /// Sends a signed request of the test's own.
    async fn send(&self, method: Method, path: &str, body: &'static str) -> String {
        let variable = |wanted: &str| {
            let found = self.variables.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        let credential = AwsCredential {
            key_id: variable("AWS_ACCESS_KEY_ID"),
            secret_key: variable("AWS_SECRET_ACCESS_KEY"),
            token: Some(variable("AWS_SESSION_TOKEN")).filter(|token| !token.is_empty()),
        };
        let region = Some(variable("AWS_REGION")).filter(|region| !region.is_empty());
        let url = format!("{}{path}", self.endpoint);
        let mut request =
            Request::builder().method(method).uri(&url).body(HttpRequestBody::from(body.to_owned())).unwrap();
        AwsAuthorizer::new(&credential, "s3", region.as_deref().unwrap_or("us-east-1"))
            .try_authorize(&mut request, None)
            .unwrap();
        let (head, _) = request.into_parts();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.request(head.method, url).headers(head.headers).body(body).send().await.unwrap();
        answer.error_for_status().unwrap().text().await.unwrap()
    }
}

/// Seen even though the test passes: the harness keeps what is printed, not what is written.
fn skip(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {test}: {why}");
}

fn find_minio() -> Option<PathBuf> {
    if let Some(named) = env::var_os("RELEASE_SERVER_TEST_MINIO") {
        return Some(named.into());
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")))?;
    let versions = std::fs::read_dir(cache.join("release-server-ci")).ok()?;
    let programs = versions.filter_map(|version| Some(version.ok()?.path().join("minio")));
    programs.filter(|program| program.is_file()).max()
}

/// A running `MinIO` with a folder of its own.
pub(crate) struct Minio {
    program: PathBuf,
    folder: TempDir,
    address: SocketAddr,
    child: Option<Child>,
}

impl Minio {
    fn start(program: PathBuf) -> Self {
        // Free a moment ago, and MinIO cannot say which one it took.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut minio = Self { program, folder: TempDir::new().unwrap(), address, child: None };
        minio.start_again();
        minio
    }

    /// Ends it at once, whatever it does.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it with what it had stored, and waits until it answers.
    pub(crate) fn start_again(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["server", "--quiet", "--address", &self.address.to_string()]);
        command.args(["--console-address", "127.0.0.1:0"]).arg(self.folder.path().join("data"));
        command.env_clear().env("HOME", self.folder.path()).env("MINIO_BROWSER", "off");
        command.env("MINIO_ROOT_USER", USER).env("MINIO_ROOT_PASSWORD", PASSWORD);
        command.env("MINIO_UPDATE", "off").stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.answers() {
            assert!(Instant::now() < deadline, "MinIO does not start");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        use std::io::Read as _;
        let asked = std::net::TcpStream::connect(self.address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let host = self.address;
            write!(
                stream,
                "GET /minio/health/cluster HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        asked.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.stop();
    }
}
