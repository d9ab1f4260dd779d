//! TLS without a proxy: real handshakes, and certificates that change under way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::{Certificate, Client, ClientBuilder, Version, tls::TlsInfo};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    program::Program,
    server::{DEADLINE, TOKEN},
};

/// An authority, and the files of a server that it vouches for.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key in PEM, and the certificate as a client sees it.
struct Pair {
    certificate: String,
    key: String,
    der: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key), folder: TempDir::new().unwrap() }
    }

    fn pair(&self) -> Pair {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn install(&self, pair: &Pair) {
        self.write("key.pem", &pair.key);
        self.write("certificate.pem", &pair.certificate);
    }

    /// At once, as a careful tool does it.
    fn write(&self, name: &str, text: &str) {
        let new = self.file("new");
        fs::write(&new, text).unwrap();
        // The server does not run as root.
        fs::rename(new, self.file(name)).unwrap();
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        let path = |name| self.file(name).display().to_string();
        [("TLS__CERTIFICATE", path("certificate.pem")), ("TLS__KEY", path("key.pem"))]
    }

    fn start(&self, store: &Path, more: &[(&str, &str)]) -> Program {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let own = self.variables();
        let mut variables: Vec<(&str, &str)> =
            own.iter().map(|(name, path)| (*name, path.as_str())).collect();
        variables.extend(more);
        Program::configured(store, &variables)
    }

    /// A client that believes this authority and nobody else, on connections of its own.
    fn client(&self) -> ClientBuilder {
        let root = Certificate::from_der(self.certificate.der()).unwrap();
        Client::builder().tls_certs_only([root]).tls_info(true).no_proxy()
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self, program: &Program) -> Vec<u8> {
        let client = self.client().build().unwrap();
        let answer = client.get(format!("{}/healthz", program.url)).send().await.unwrap();
        answer.extensions().get::<TlsInfo>().unwrap().peer_certificate().unwrap().to_vec()
    }

    async fn until_shown(&self, program: &Program, pair: &Pair) -> Duration {
        let began = Instant::now();
        while self.shown(program).await != pair.der {
            assert!(began.elapsed() < DEADLINE, "the new certificate is not used");
            sleep(Duration::from_millis(50)).await;
        }
        began.elapsed()
    }
}

#[tokio::test]
async fn both_versions_of_http_are_spoken_and_links_are_https() {
    let (authority, store) = (Authority::new(), TempDir::new().unwrap());
    authority.install(&authority.pair());
    let program = authority.start(store.path(), &[]);
    assert!(program.url.starts_with("https://127.0.0.1:"), "{}", program.url);
    for (client, version) in
        [(authority.client(), Version::HTTP_2), (authority.client().http1_only(), Version::HTTP_11)]
    {
        let client = client.build().unwrap();
        let asset = format!("{}/assets/app.zip?overwrite=true", program.url);
        let put = client.put(asset).bearer_auth(TOKEN).body("abc").send().await.unwrap();
        assert_eq!((put.status().as_u16(), put.version()), (200, version));
        let latest = client.get(format!("{}/latest", program.url)).send().await.unwrap();
        let text = latest.text().await.unwrap();
        assert!(text.contains(&format!("\"{}/assets/app.zip\"", program.url)), "{text}");
    }
    // Who believes other authorities is not fooled.
    assert!(Client::builder().no_proxy().build().unwrap().get(&program.url).send().await.is_err());
}

#[tokio::test]
async fn a_replaced_certificate_is_used_and_what_is_under_way_goes_on() {
    let (authority, store) = (Authority::new(), TempDir::new().unwrap());
    let (first, second) = (authority.pair(), authority.pair());
    authority.install(&first);
    let bytes = vec![7; 64 * 1024 * 1024];
    fs::write(store.path().join("large.bin"), &bytes).unwrap();
    let program = authority.start(store.path(), &[]);
    assert_eq!(authority.shown(&program).await, first.der);

    let client = authority.client().http1_only().build().unwrap();
    let mut download = client.get(format!("{}/assets/large.bin", program.url)).send().await.unwrap();
    let mut received = download.chunk().await.unwrap().unwrap().len();

    authority.install(&second);
    let took = authority.until_shown(&program, &second).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(program.logged("tls")["level"], "info");

    while let Some(chunk) = download.chunk().await.unwrap() {
        assert!(chunk.iter().all(|byte| *byte == 7));
        received += chunk.len();
    }
    assert_eq!(received, bytes.len());
}

#[tokio::test]
async fn a_bad_pair_is_kept_out_and_said_once() {
    let (authority, store) = (Authority::new(), TempDir::new().unwrap());
    let (first, second) = (authority.pair(), authority.pair());
    authority.install(&first);
    let program = authority.start(store.path(), &[]);
    for (name, text) in
        [("key.pem", second.key.as_str()), ("key.pem", "no key at all"), ("certificate.pem", "")]
    {
        authority.write(name, text);
        let warning = program.logged("tls");
        assert_eq!(warning["level"], "warn", "{warning}");
        let error = warning["error"].as_str().unwrap();
        assert!(error.contains("tls.") && !error.contains("BEGIN"), "{error}");
        assert_eq!(authority.shown(&program).await, first.der);
    }
    fs::remove_file(authority.file("key.pem")).unwrap();
    assert_eq!(program.logged("tls")["level"], "warn");
    assert_eq!(authority.shown(&program).await, first.der);

    authority.install(&second);
    authority.until_shown(&program, &second).await;
    // Nothing was said twice: the next line is that of the good pair.
    assert_eq!(program.logged("tls")["level"], "info");
}

#[tokio::test]
async fn who_does_not_shake_hands_holds_up_nobody_and_is_let_go() {
    let (authority, store) = (Authority::new(), TempDir::new().unwrap());
    authority.install(&authority.pair());
    let program = authority.start(store.path(), &[("SERVER__HEADER_TIMEOUT", "1s")]);
    let address = program.started["address"].as_str().unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut babbling = TcpStream::connect(address).await.unwrap();
    babbling.write_all(&[22, 3, 1, 0xff]).await.unwrap();
    assert!(!authority.shown(&program).await.is_empty());
    let mut nothing = [0; 16];
    for stream in [&mut silent, &mut babbling] {
        let ended = timeout(DEADLINE, stream.read(&mut nothing)).await.expect("the connection stays open");
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The request that was not read makes the kernel reset the connection; what was said before that has arrived.
    let _ = timeout(DEADLINE, plain.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("speaks https"), "{answer}");
}

fn run(authority: &Authority, arguments: &[&str], port: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_release-server"))
        .args(arguments)
        .env_clear()
        .envs(authority.variables())
        .env("STORAGE_URL", "memory://")
        .env("BIND_ADDRESS", "127.0.0.1")
        .env("PORT", port)
        .output()
        .unwrap()
}

#[tokio::test]
async fn the_healthcheck_asks_its_own_server_by_tls() {
    let (authority, store) = (Authority::new(), TempDir::new().unwrap());
    authority.install(&authority.pair());
    let program = authority.start(store.path(), &[]);
    let port = program.url.rsplit(':').next().unwrap().to_owned();
    let checked =
        tokio::task::spawn_blocking(move || run(&authority, &["healthcheck"], &port)).await.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("https://127.0.0.1"), "{checked:?}");
}

#[test]
fn a_start_without_the_files_says_which_one_is_missing() {
    let authority = Authority::new();
    let said = |authority: &Authority| {
        let ended = run(authority, &[], "0");
        assert_eq!(ended.status.code(), Some(1));
        String::from_utf8(ended.stderr).unwrap()
    };
    let pair = authority.pair();
    let error = said(&authority);
    assert!(
        error.starts_with("error: `tls.certificate`: cannot read `") && error.lines().count() <= 2,
        "{error}"
    );
    authority.write("certificate.pem", &pair.certificate);
    assert!(said(&authority).starts_with("error: `tls.key`: cannot read `"));
    authority.write("key.pem", &authority.pair().key);
    let error = said(&authority);
    assert!(error.contains("do not belong together"), "{error}");
    authority.write("key.pem", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n");
    let error = said(&authority);
    assert!(!error.contains("c2VjcmV0"), "{error}");
}
