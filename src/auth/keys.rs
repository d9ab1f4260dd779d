//! The keys that verify JSON Web Tokens, and for which algorithms each of them will do.
//!
//! - Where keys come from is configured; nothing in a token (`jku`, `x5u`, `jwk`) adds one.
//! - A key verifies only what suits its type, its curve and its declared `alg` and `use`, and only if configured.
//! - A key set is read again when a token names a key it lacks and when it is [`MAX_AGE`] old, yet at most once in
//!   [`COOL_DOWN`], whoever asks: strangers cannot make us hammer the issuer. Tokens that name a known key never
//!   wait for another's reading.
//! - While the issuer does not answer, the last keys stay good up to [`MAX_STALE`].

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, watch},
    time::Instant,
};
use url::{Host, Url};

use super::Denied;
use crate::{
    config,
    metrics::{Metrics, Refresh},
};

const MAX_AGE: Duration = Duration::from_hours(1);
const MAX_STALE: Duration = Duration::from_hours(24);
const COOL_DOWN: Duration = Duration::from_secs(30);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest key set that is read from a URL, in bytes.
const MAX_SET: usize = 1024 * 1024;

/// A key and what it may verify.
pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

/// The configured source of keys.
pub(super) enum Keys {
    /// One secret or PEM.
    Fixed(Arc<[Key]>),
    /// A JWK set.
    Set(Arc<KeySet>),
}

impl Keys {
    /// Reads the key file, if one is configured; a URL is read when the first token comes, so that a server starts
    /// without its issuer.
    pub(super) fn new(config: &config::Jwt, algorithms: &[Algorithm]) -> anyhow::Result<Self> {
        let is_hmac = |algorithm: &Algorithm| algorithm.family() == AlgorithmFamily::Hmac;
        match (&config.secret, &config.public_key_file, &config.jwks_file, &config.jwks_url) {
            (Some(secret), None, None, None) => {
                if let Some(other) = algorithms.iter().find(|algorithm| !is_hmac(algorithm)) {
                    bail!(
                        "`auth.jwt.algorithms`: `{other:?}` needs a public key; drop it, or replace `auth.jwt.secret` \
                         by `public_key_file`, `jwks_file` or `jwks_url`"
                    );
                }
                Ok(Self::Fixed([Key::from_secret(secret, algorithms)?].into()))
            }
            (None, ..) if algorithms.iter().any(is_hmac) => bail!(
                "`auth.jwt.algorithms`: `HS…` works with `auth.jwt.secret` alone; drop it, or set the secret and no \
                 other key"
            ),
            (None, Some(path), None, None) => {
                let pem = std::fs::read(path).with_context(|| {
                    format!("`auth.jwt.public_key_file`: cannot read `{}`", path.display())
                })?;
                Ok(Self::Fixed([Key::from_pem(&pem, algorithms)?].into()))
            }
            (None, None, Some(path), None) => {
                let keys = std::fs::read(path)
                    .map_err(anyhow::Error::from)
                    .and_then(|text| parse(&text, algorithms))
                    .with_context(|| format!("`auth.jwt.jwks_file`: cannot use `{}`", path.display()))?;
                ensure!(
                    !keys.is_empty(),
                    "`auth.jwt.jwks_file`: no key in `{}` verifies any of `auth.jwt.algorithms`; check both",
                    path.display()
                );
                let held = Held { keys, loaded: Some(Instant::now()), tried: None };
                Ok(Self::Set(KeySet::new(Source::File(path.clone()), algorithms, held)))
            }
            (None, None, None, Some(url)) => {
                let source = Source::Url { url: url.clone(), client: client(url)? };
                Ok(Self::Set(KeySet::new(source, algorithms, Held::default())))
            }
            _ => bail!(
                "`auth.jwt` needs exactly one key: set one of `secret`, `public_key_file`, `jwks_file` and `jwks_url`"
            ),
        }
    }

    /// Counts readings of a key set from here on.
    pub(super) fn measured(&self, metrics: Metrics) {
        if let Self::Set(set) = self {
            set.metrics.get_or_init(|| metrics);
        }
    }

    /// The keys to try; some may not [fit](Key::fits) the header.
    pub(super) async fn find(&self, header: &Header) -> Result<Arc<[Key]>, Denied> {
        match self {
            Self::Fixed(keys) => Ok(Arc::clone(keys)),
            Self::Set(set) => set.find(header).await,
        }
    }
}

impl Key {
    /// RFC 7518, section 3.2: an HMAC key is at least as long as the hash.
    fn from_secret(secret: &config::Secret, algorithms: &[Algorithm]) -> anyhow::Result<Self> {
        let secret = secret.reveal().as_bytes();
        // Whoever has the public key could sign.
        ensure!(
            !secret.trim_ascii_start().starts_with(b"-----BEGIN"),
            "`auth.jwt.secret` is a PEM, not a secret; use `auth.jwt.public_key_file`"
        );
        let bytes_needed = |algorithm: &Algorithm| match algorithm {
            Algorithm::HS512 => 64,
            Algorithm::HS384 => 48,
            _ => 32,
        };
        let needed = algorithms.iter().map(bytes_needed).max().unwrap_or_default();
        ensure!(
            secret.len() >= needed,
            "`auth.jwt.secret` is shorter than {needed} bytes, which `auth.jwt.algorithms` ask for; make one with \
             `openssl rand -hex {needed}`"
        );
        Ok(Self { id: None, algorithms: algorithms.to_vec(), decoding: DecodingKey::from_secret(secret) })
    }

    fn from_pem(pem: &[u8], algorithms: &[Algorithm]) -> anyhow::Result<Self> {
        // Going through a JWK tells the curve, and that this is indeed a public key.
        let jwk = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem]
            .iter()
            .find_map(|read| Jwk::from_decoding_key(&read(pem).ok()?, None).ok())
            .context(
                "`auth.jwt.public_key_file` is not the PEM of an RSA, P-256, P-384 or Ed25519 public key; make it with \
                 `openssl pkey -in private.pem -pubout`",
            )?;
        let key = Self::from_jwk(&jwk, algorithms);
        let verifies = |algorithm| key.as_ref().is_some_and(|key| key.algorithms.contains(algorithm));
        if let Some(other) = algorithms.iter().find(|algorithm| !verifies(algorithm)) {
            bail!(
                "`auth.jwt.algorithms`: the key in `auth.jwt.public_key_file` cannot verify `{other:?}`; drop it"
            );
        }
        key.context("`auth.jwt.algorithms` is empty")
    }

    /// `None` if the key verifies none of `algorithms`.
    fn from_jwk(jwk: &Jwk, algorithms: &[Algorithm]) -> Option<Self> {
        let suits = |algorithm: Algorithm| match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => algorithm.family() == AlgorithmFamily::Rsa,
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => algorithm == Algorithm::ES256,
                EllipticCurve::P384 => algorithm == Algorithm::ES384,
                _ => false,
            },
            AlgorithmParameters::OctetKeyPair(key) => {
                key.curve == EllipticCurve::Ed25519 && algorithm == Algorithm::EdDSA
            }
            // A symmetric key that was published is no secret.
            _ => false,
        };
        let common = &jwk.common;
        let declared =
            |algorithm| common.key_algorithm.is_none_or(|own| own == KeyAlgorithm::from(algorithm));
        let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature))
            && common.key_operations.as_ref().is_none_or(|uses| uses.contains(&KeyOperations::Verify));
        let algorithms: Vec<_> = algorithms
            .iter()
            .copied()
            .filter(|algorithm| for_signatures && suits(*algorithm) && declared(*algorithm))
            .collect();
        let decoding = DecodingKey::from_jwk(jwk).ok()?;
        (!algorithms.is_empty()).then(|| Self { id: common.key_id.clone(), algorithms, decoding })
    }

    /// Whether this key may have signed a token with this header.
    pub(super) fn fits(&self, header: &Header) -> bool {
        let same_id = match (&self.id, &header.kid) {
            (Some(own), Some(named)) => own == named,
            _ => true,
        };
        same_id && self.algorithms.contains(&header.alg)
    }
}

/// A JWK set (RFC 7517, section 5), read again as the module's rules say.
pub(super) struct KeySet {
    source: Source,
    algorithms: Vec<Algorithm>,
    held: watch::Sender<Held>,
    /// Held by the one reading under way.
    flight: Arc<Mutex<()>>,
    metrics: OnceLock<Metrics>,
}

enum Source {
    File(PathBuf),
    Url { url: Url, client: reqwest::Client },
}

/// The keys of the last good reading, when it began, and when the last one began, good or bad.
#[derive(Clone, Default)]
struct Held {
    keys: Arc<[Key]>,
    loaded: Option<Instant>,
    tried: Option<Instant>,
}

impl Held {
    fn knows(&self, header: &Header) -> bool {
        self.keys.iter().any(|key| key.fits(header))
    }

    fn is_younger_than(&self, age: Duration) -> bool {
        self.loaded.is_some_and(|loaded| loaded.elapsed() < age)
    }

    fn was_tried_just_now(&self) -> bool {
        self.tried.is_some_and(|tried| tried.elapsed() < COOL_DOWN)
    }
}

impl KeySet {
    fn new(source: Source, algorithms: &[Algorithm], held: Held) -> Arc<Self> {
        Arc::new(Self {
            source,
            algorithms: algorithms.to_vec(),
            held: watch::Sender::new(held),
            flight: Arc::default(),
            metrics: OnceLock::new(),
        })
    }

    async fn find(self: &Arc<Self>, header: &Header) -> Result<Arc<[Key]>, Denied> {
        let held = self.held();
        let good_enough = if held.was_tried_just_now() { MAX_STALE } else { MAX_AGE };
        if held.knows(header) && held.is_younger_than(good_enough) {
            return Ok(held.keys);
        }
        self.refresh().await;
        let held = self.held();
        if held.knows(header) && held.is_younger_than(MAX_STALE) {
            Ok(held.keys)
        } else if held.loaded.is_some() && held.loaded == held.tried {
            Err(Denied::Invalid(
                "the token is signed by a key its issuer does not list; get a new one".into(),
            ))
        } else {
            Err(Denied::Unavailable)
        }
    }

    fn held(&self) -> Held {
        self.held.borrow().clone()
    }

    /// Reads the set, waits for the reading under way, or does nothing in the cool-down.
    async fn refresh(self: &Arc<Self>) {
        let flight = Arc::clone(&self.flight).lock_owned().await;
        if self.held().was_tried_just_now() {
            return;
        }
        // In a task of its own: a caller who leaves must not cut it short, or strangers could spend the cool-down.
        let this = Arc::clone(self);
        let reading = tokio::spawn(async move {
            this.load().await;
            drop(flight);
        });
        if let Err(error) = reading.await {
            tracing::error!(event = "keys", %error, "reading the key set did not end");
        }
    }

    async fn load(&self) {
        let now = Instant::now();
        self.held.send_modify(|held| held.tried = Some(now));
        let outcome = match self.source.read().await.and_then(|text| parse(&text, &self.algorithms)) {
            Ok(keys) => {
                let outcome = if keys.is_empty() { Refresh::Empty } else { Refresh::Ok };
                if keys.is_empty() {
                    tracing::warn!(
                        event = "keys",
                        "no key of the issuer verifies any of `auth.jwt.algorithms`"
                    );
                }
                self.held.send_modify(|held| (held.keys, held.loaded) = (keys, Some(now)));
                outcome
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(
                    event = "keys",
                    error,
                    "the key set cannot be read; the last one stays in use"
                );
                Refresh::Failed
            }
        };
        self.metrics.get().copied().unwrap_or_default().key_set_read(outcome);
    }
}

impl Source {
    async fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File(path) => {
                tokio::fs::read(path).await.with_context(|| format!("cannot read `{}`", path.display()))
            }
            Self::Url { url, client } => {
                fetch(client, url).await.with_context(|| format!("cannot fetch `{url}`"))
            }
        }
    }
}

async fn fetch(client: &reqwest::Client, url: &Url) -> anyhow::Result<Vec<u8>> {
    let mut response = client.get(url.clone()).send().await?;
    ensure!(response.status() == http::StatusCode::OK, "the answer is {}", response.status());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        ensure!(body.len() + chunk.len() <= MAX_SET, "the answer is larger than {MAX_SET} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A client for one configured URL: no redirects, which could lead past the checks made here.
fn client(url: &Url) -> anyhow::Result<reqwest::Client> {
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    ensure!(
        url.scheme() == "https" || (url.scheme() == "http" && is_loopback),
        "`auth.jwt.jwks_url` is not `https`, so anybody on the way could add a key; use `https`"
    );
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "`auth.jwt.jwks_url` contains credentials; key sets are public, drop them"
    );
    let builder = reqwest::Client::builder()
        .user_agent(concat!("release-server/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(FETCH_TIMEOUT);
    // A proxy does not reach our loopback.
    let builder = if is_loopback { builder.no_proxy() } else { builder };
    builder.build().context("`auth.jwt.jwks_url`: cannot make an HTTP client")
}

/// The keys of a set that verify one of `algorithms`. Others are skipped (RFC 7517, section 5).
fn parse(text: &[u8], algorithms: &[Algorithm]) -> anyhow::Result<Arc<[Key]>> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(text).context("this is not a JWK set")?;
    let keys = set.keys.into_iter().filter_map(|key| {
        let jwk: Jwk = serde_json::from_value(key).ok()?;
        Key::from_jwk(&jwk, algorithms)
    });
    Ok(keys.collect())
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::{Mutex as StdMutex, PoisonError},
    };

    use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::{
        Caller,
        jwt::{
            Verifier,
            tests::{Issuer, RSA, config, file},
        },
    };

    /// A server of key sets on loopback that counts.
    #[derive(Clone, Default)]
    struct Server(Arc<StdMutex<Answer>>);

    #[derive(Default)]
    struct Answer {
        fetches: usize,
        status: StatusCode,
        body: String,
        location: Option<String>,
        delay: Duration,
    }

    impl Server {
        async fn start(keys: Value) -> (Self, Verifier) {
            let server = Self::default();
            server.serve(keys);
            let shared = server.clone();
            let answer = async move || {
                let (delay, answer) = shared.with(|answer| {
                    answer.fetches += 1;
                    let location = answer.location.clone().map(|to| [("location", to)]);
                    let response = match location {
                        Some(location) => (answer.status, location, answer.body.clone()).into_response(),
                        None => (answer.status, answer.body.clone()).into_response(),
                    };
                    (answer.delay, response)
                });
                tokio::time::sleep(delay).await;
                answer
            };
            let listener =
                tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let url = format!("http://{}/keys", listener.local_addr().unwrap());
            let app = Router::new().route("/keys", get(answer));
            tokio::spawn(async move { axum::serve(listener, app).await });
            let config = config(&json!({ "algorithms": ["RS256", "ES256"], "jwks_url": url }));
            (server, Verifier::new(&config).unwrap())
        }

        fn with<T>(&self, change: impl FnOnce(&mut Answer) -> T) -> T {
            change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        }

        fn serve(&self, keys: Value) {
            let set = Value::from_iter([("keys", keys)]).to_string();
            self.with(|answer| (answer.status, answer.body) = (StatusCode::OK, set));
        }

        fn break_down(&self) {
            self.with(|answer| answer.status = StatusCode::INTERNAL_SERVER_ERROR);
        }

        fn fetches(&self) -> usize {
            self.with(|answer| answer.fetches)
        }
    }

    /// Lets time pass at once. It stands still meanwhile only, since sockets do not know of paused time.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    async fn verify(verifier: &Verifier, token: &str) -> Result<Caller, Denied> {
        verifier.verify(token.as_bytes()).await
    }

    fn is_invalid(answer: &Result<Caller, Denied>) -> bool {
        matches!(answer, Err(Denied::Invalid(_)))
    }

    #[tokio::test]
    async fn keys_are_fetched_once_for_many_tokens() {
        let p256 = Issuer::p256();
        let keys = json!([RSA.jwk("a", Algorithm::RS256), p256.jwk("b", Algorithm::ES256)]);
        let (server, verifier) = Server::start(keys).await;
        assert_eq!(server.fetches(), 0);
        server.with(|answer| answer.delay = Duration::from_millis(50));
        let (one, two) = (RSA.sign_as("a", Algorithm::RS256), p256.sign_as("b", Algorithm::ES256));
        let herd = futures_util::future::join_all((0..16).map(|_| verify(&verifier, &one))).await;
        assert!(herd.iter().all(Result::is_ok), "{herd:?}");
        verify(&verifier, &two).await.unwrap();
        assert_eq!(server.fetches(), 1);
    }

    #[tokio::test]
    async fn unknown_key_ids_cost_the_issuer_one_fetch_in_a_cool_down() {
        let (server, verifier) = Server::start(json!([RSA.jwk("a", Algorithm::RS256)])).await;
        let stranger = Issuer::p256();
        for attempt in 0..20 {
            let token = stranger.sign_as(&format!("k{attempt}"), Algorithm::ES256);
            assert!(is_invalid(&verify(&verifier, &token).await));
        }
        assert_eq!(server.fetches(), 1);
        verify(&verifier, &RSA.sign_as("a", Algorithm::RS256)).await.unwrap();

        pass(COOL_DOWN).await;
        for attempt in 0..20 {
            let token = stranger.sign_as(&format!("k{attempt}"), Algorithm::ES256);
            assert!(is_invalid(&verify(&verifier, &token).await));
        }
        assert_eq!(server.fetches(), 2);
    }

    #[tokio::test]
    async fn a_known_key_id_does_not_lend_itself_to_another_key_or_algorithm() {
        let (_server, verifier) = Server::start(json!([RSA.jwk("a", Algorithm::RS256)])).await;
        assert!(is_invalid(&verify(&verifier, &Issuer::rsa().sign_as("a", Algorithm::RS256)).await));
        assert!(is_invalid(&verify(&verifier, &Issuer::p256().sign_as("a", Algorithm::ES256)).await));
        verify(&verifier, &RSA.sign_as("a", Algorithm::RS256)).await.unwrap();
    }

    #[tokio::test]
    async fn a_token_without_key_id_is_tried_with_every_key_that_suits() {
        let (old, new) = (Issuer::p256(), Issuer::p256());
        let keys = json!([old.jwk("a", Algorithm::ES256), new.jwk("b", Algorithm::ES256)]);
        let (_server, verifier) = Server::start(keys).await;
        let claims = crate::auth::jwt::tests::claims();
        verify(&verifier, &new.sign(Algorithm::ES256, &claims)).await.unwrap();
        assert!(is_invalid(&verify(&verifier, &Issuer::p256().sign(Algorithm::ES256, &claims)).await));
    }

    #[tokio::test]
    async fn a_rotated_key_is_found_after_the_cool_down_and_the_old_one_is_gone() {
        let (old, new) = (Issuer::p256(), Issuer::p256());
        let (server, verifier) = Server::start(json!([old.jwk("old", Algorithm::ES256)])).await;
        let (by_old, by_new) = (old.sign_as("old", Algorithm::ES256), new.sign_as("new", Algorithm::ES256));
        verify(&verifier, &by_old).await.unwrap();

        server.serve(json!([new.jwk("new", Algorithm::ES256)]));
        assert!(is_invalid(&verify(&verifier, &by_new).await), "within the cool-down");
        pass(COOL_DOWN).await;
        verify(&verifier, &by_new).await.unwrap();
        assert!(is_invalid(&verify(&verifier, &by_old).await));
        assert_eq!(server.fetches(), 2);
    }

    #[tokio::test]
    async fn a_withdrawn_key_is_gone_when_the_set_is_too_old() {
        let issuer = Issuer::p256();
        let (server, verifier) = Server::start(json!([issuer.jwk("a", Algorithm::ES256)])).await;
        let token = issuer.sign_as("a", Algorithm::ES256);
        verify(&verifier, &token).await.unwrap();
        server.serve(json!([]));
        pass(MAX_AGE / 2).await;
        verify(&verifier, &token).await.unwrap();
        assert_eq!(server.fetches(), 1);
        pass(MAX_AGE / 2).await;
        assert!(is_invalid(&verify(&verifier, &token).await));
        assert_eq!(server.fetches(), 2);
    }

    #[tokio::test]
    async fn the_last_keys_serve_while_the_issuer_is_down_but_not_for_ever() {
        let issuer = Issuer::p256();
        let (server, verifier) = Server::start(json!([issuer.jwk("a", Algorithm::ES256)])).await;
        // Its `exp` is judged by the system's clock, which does not jump with this one.
        let token = issuer.sign_as("a", Algorithm::ES256);
        verify(&verifier, &token).await.unwrap();

        server.break_down();
        pass(MAX_AGE).await;
        for _ in 0..5 {
            verify(&verifier, &token).await.unwrap();
        }
        assert_eq!(server.fetches(), 2, "one attempt in a cool-down");
        server.with(|answer| (answer.status, answer.body) = (StatusCode::OK, "<html>".into()));
        pass(COOL_DOWN).await;
        verify(&verifier, &token).await.expect("an answer that is no key set changes nothing");

        pass(MAX_STALE).await;
        assert_eq!(verify(&verifier, &token).await, Err(Denied::Unavailable));

        server.serve(json!([issuer.jwk("a", Algorithm::ES256)]));
        pass(COOL_DOWN).await;
        verify(&verifier, &token).await.unwrap();
    }

    #[tokio::test]
    async fn an_issuer_that_was_never_reached_is_not_the_callers_fault() {
        let (server, verifier) = Server::start(json!([RSA.jwk("a", Algorithm::RS256)])).await;
        server.break_down();
        let token = RSA.sign_as("a", Algorithm::RS256);
        for _ in 0..3 {
            assert_eq!(verify(&verifier, &token).await, Err(Denied::Unavailable));
        }
        assert_eq!(server.fetches(), 1);
        server.serve(json!([RSA.jwk("a", Algorithm::RS256)]));
        pass(COOL_DOWN).await;
        verify(&verifier, &token).await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_who_leaves_does_not_cut_the_reading_short() {
        let (server, verifier) = Server::start(json!([RSA.jwk("a", Algorithm::RS256)])).await;
        server.with(|answer| answer.delay = Duration::from_millis(100));
        let token = RSA.sign_as("a", Algorithm::RS256);
        let patience = Duration::from_millis(30);
        tokio::time::timeout(patience, verify(&verifier, &token)).await.expect_err("it left");
        verify(&verifier, &token).await.unwrap();
        assert_eq!(server.fetches(), 1);
    }

    #[tokio::test]
    async fn known_keys_are_not_held_up_by_a_reading() {
        let (server, verifier) = Server::start(json!([RSA.jwk("a", Algorithm::RS256)])).await;
        let token = RSA.sign_as("a", Algorithm::RS256);
        verify(&verifier, &token).await.unwrap();
        pass(MAX_AGE).await;
        server.with(|answer| answer.delay = Duration::from_secs(2));
        tokio::select! {
            biased;
            _ = verify(&verifier, &token) => panic!("the one that reads waits for the slow issuer"),
            answer = async {
                while server.fetches() < 2 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                verify(&verifier, &token).await
            } => answer.unwrap(),
        };
    }

    #[tokio::test]
    async fn redirects_and_endless_answers_are_not_followed() {
        let token = RSA.sign_as("a", Algorithm::RS256);
        let keys = || json!([RSA.jwk("a", Algorithm::RS256)]);

        let (server, verifier) = Server::start(keys()).await;
        server.with(|answer| {
            (answer.status, answer.location) = (StatusCode::FOUND, Some("/keys?again".into()));
        });
        assert_eq!(verify(&verifier, &token).await, Err(Denied::Unavailable));
        assert_eq!(server.fetches(), 1);

        let (server, verifier) = Server::start(keys()).await;
        server.with(|answer| answer.body += &" ".repeat(MAX_SET));
        assert_eq!(verify(&verifier, &token).await, Err(Denied::Unavailable));
    }

    #[tokio::test]
    async fn keys_that_are_not_for_signatures_are_skipped() {
        let issuer = Issuer::p256();
        let with = |name: &str, value: Value| {
            let mut jwk = issuer.jwk("a", Algorithm::ES256);
            jwk.as_object_mut().unwrap().shift_remove("alg");
            jwk[name] = value;
            jwk
        };
        let token = issuer.sign_as("a", Algorithm::ES256);
        let secret = json!({ "kty": "oct", "kid": "a", "k": "c2VjcmV0" });
        for unfit in [
            with("use", json!("enc")),
            with("key_ops", json!(["encrypt"])),
            with("alg", json!("ES384")),
            with("alg", json!("ECDH-ES")),
            with("kty", json!("AKP")),
            with("crv", json!("secp256k1")),
            secret,
        ] {
            let (_server, verifier) = Server::start(json!([unfit])).await;
            assert!(is_invalid(&verify(&verifier, &token).await), "{unfit}");
        }
        let odd = json!([{ "kty": 7 }, "no key", with("use", json!("sig"))]);
        let (_server, verifier) = Server::start(odd).await;
        verify(&verifier, &token).await.expect("odd neighbours do not spoil the set");
    }

    #[tokio::test]
    async fn a_replaced_key_file_is_read_again() {
        let (old, new) = (Issuer::p256(), Issuer::p256());
        let set = |issuer: &Issuer, kid| json!({ "keys": [issuer.jwk(kid, Algorithm::ES256)] }).to_string();
        let keys = file(set(&old, "old"));
        let config = config(&json!({ "algorithms": ["ES256"], "jwks_file": keys.path() }));
        let verifier = Verifier::new(&config).unwrap();
        verify(&verifier, &old.sign_as("old", Algorithm::ES256)).await.unwrap();
        std::fs::write(keys.path(), set(&new, "new")).unwrap();
        verify(&verifier, &new.sign_as("new", Algorithm::ES256)).await.unwrap();
        assert!(is_invalid(&verify(&verifier, &old.sign_as("old", Algorithm::ES256)).await));
    }
}
