//! Who may do what.
//!
//! | to | while reads are public (the default) | with `auth.private_reads` |
//! |---|---|---|
//! | read | nothing is needed, and no `Authorization` is looked at | a token with the scope `read` |
//! | write | a token with the scope `write` | the same |
//! | delete | a token with the scope `delete` | the same |
//!
//! Repositories are read, and written to, by the same rules. In addition:
//!
//! - A private repository (`auth.private_repositories`) is a 404 for callers who may not read it.
//! - On a public read a token that is not valid here is as good as none, for clients send along tokens that are meant
//!   for others; one that may write shows drafts too.
//!
//! A token is sent as `Authorization: Bearer TOKEN`, as `token TOKEN`, or as the password of Basic. It is one of
//!
//! 1. `auth_token`: every scope, everywhere;
//! 2. `auth.tokens`: known by SHA-256 alone, each with its scopes and repositories;
//! 3. a JSON Web Token, if `auth.jwt` is set: `auth/jwt.rs` says which are believed and what they grant.
//!
//! What holds:
//!
//! - No scope includes another one.
//! - A token limited to repositories reaches nothing else. The flat packages are in no repository, so it does not
//!   reach them.
//! - No token, or one that is not valid here, is a matter of who is calling (401); a valid one that does not reach
//!   this far is a matter of what it may do (403). An issuer that does not answer is nobody's fault (503).
//! - Tokens are compared by digest, in constant time, all of them each time: how long an answer takes says nothing.
//! - No token and no key is in a message, a log line or a `Debug`.
//!
//! Left to others: statuses and `WWW-Authenticate` (`http/error.rs`), and what a browser may send across sites.

mod jwt;
mod keys;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    fmt,
};

use anyhow::{Context, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::{
    config::{self, NamedToken, Secret},
    metrics::Metrics,
};

/// The longest `Authorization` looked at, in bytes. The tokens of CI systems are well below 4 KiB.
const MAX_AUTHORIZATION: usize = 16 * 1024;

/// What the log calls the caller who sent no token, and the one who sent `auth_token`.
const ANONYMOUS: &str = "anonymous";
const STATIC_TOKEN: &str = "auth_token";

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// List and download.
    Read,
    /// Upload, and replace.
    Write,
    /// Delete.
    Delete,
}

impl Scope {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Delete];
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        })
    }
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name or the JWT's subject; for the log.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
    /// Where: `owner/repo` or `owner/*`, in lower case; empty = everywhere, the flat packages included.
    pub repositories: Vec<String>,
}

impl Caller {
    /// Somebody without a token, who may read what is public.
    fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), scopes: BTreeSet::from([Scope::Read]), repositories: Vec::new() }
    }

    /// Refuses what `scope` allows to a caller who does not have it.
    fn may(&self, scope: Scope) -> Result<(), Denied> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        let name = &self.name;
        Err(Denied::Forbidden(format!(
            "the token of `{name}` lacks the scope `{scope}`; use one that has it"
        )))
    }

    /// Refuses `repository` (`owner/repo`, in any case) to a caller who is limited to others; `None` are the flat
    /// packages.
    fn may_touch(&self, repository: Option<&str>) -> Result<(), Denied> {
        let within = repository.is_some_and(|repository| covered(&self.repositories, repository));
        if self.repositories.is_empty() || within {
            return Ok(());
        }
        let place = repository.map_or("the packages".into(), |repository| format!("`{repository}`"));
        let limits = self.repositories.join("`, `");
        Err(Denied::Forbidden(format!(
            "the token of `{}` does not reach {place}, only `{limits}`; use one that does",
            self.name
        )))
    }
}

/// Somebody who may read a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// Who it is.
    pub caller: Caller,
    /// Whether it may write there, and so sees drafts.
    pub writes: bool,
    /// Whether the repository is private.
    pub private: bool,
}

/// Why a caller was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No credentials.
    #[error("this needs a token: send `Authorization: Bearer <token>`")]
    Missing,
    /// Credentials that are not valid here.
    #[error("{0}")]
    Invalid(String),
    /// Valid credentials that do not reach this far.
    #[error("{0}")]
    Forbidden(String),
    /// It is not told that there is anything.
    #[error("there is no such repository, or it is private and the token does not reach it")]
    Hidden,
    /// Credentials that cannot be judged at the moment: the issuer's keys are not to be had.
    #[error("the keys of the token's issuer cannot be read at the moment; try again shortly")]
    Unavailable,
}

/// Tells who is calling from an `Authorization` header.
pub struct Authenticator {
    private_reads: bool,
    private_repositories: Vec<String>,
    tokens: Vec<Token>,
    jwt: Option<jwt::Verifier>,
    metrics: Metrics,
}

/// A token known by its digest, and who sends it.
struct Token {
    sha256: [u8; 32],
    caller: Caller,
}

impl Authenticator {
    /// Checks the configuration and reads the key files it names. A blank `auth_token` counts as none.
    pub fn new(auth_token: Option<&Secret>, config: &config::Auth) -> anyhow::Result<Self> {
        let mut tokens = Vec::new();
        // A secret read from a file often ends in a newline, which no header can carry.
        let auth_token = auth_token.map(|token| token.reveal().trim()).filter(|token| !token.is_empty());
        tokens.extend(auth_token.map(|token| Token {
            sha256: Sha256::digest(token).into(),
            caller: Caller {
                name: STATIC_TOKEN.to_owned(),
                scopes: Scope::ALL.into(),
                repositories: Vec::new(),
            },
        }));

        let mut names = HashSet::from([ANONYMOUS, STATIC_TOKEN]);
        for (index, named) in config.tokens.iter().enumerate() {
            let key = format!("auth.tokens[{index}]");
            let token = Token::new(named).with_context(|| format!("`{key}` is not usable"))?;
            let name = &named.name;
            ensure!(names.insert(name), "`{key}.name`: `{name}` is taken; give each token a name of its own");
            if let Some(twin) = tokens.iter().find(|other| other.sha256 == token.sha256) {
                bail!("`{key}.sha256` is the token of `{}`; make a token for each", twin.caller.name);
            }
            tokens.push(token);
        }

        let jwt = config.jwt.as_ref().map(jwt::Verifier::new).transpose()?;
        let private_repositories = config
            .private_repositories
            .iter()
            .map(|text| {
                repository_pattern(text).with_context(|| {
                    format!(
                        "`auth.private_repositories`: `{text}` is neither `owner/repository` nor `owner/*`"
                    )
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let private_reads = config.private_reads;
        let this = Self { private_reads, private_repositories, tokens, jwt, metrics: Metrics::default() };
        ensure!(
            this.has_credentials() || !this.private_reads,
            "`auth.private_reads` is on, but nobody has a token; set `auth_token`, `auth.tokens` or `auth.jwt`"
        );
        Ok(this)
    }

    /// The same, counting whom it refuses and how often it reads the issuer's keys.
    #[must_use]
    pub fn measured(self, metrics: Metrics) -> Self {
        if let Some(jwt) = &self.jwt {
            jwt.measured(metrics);
        }
        Self { metrics, ..self }
    }

    fn counted<T>(&self, judged: Result<T, Denied>) -> Result<T, Denied> {
        judged.inspect_err(|denied| self.metrics.refused(denied.into()))
    }

    /// Whether any token can be valid. If not, every write is refused, which is worth a warning at the start.
    pub fn has_credentials(&self) -> bool {
        !self.tokens.is_empty() || self.jwt.is_some()
    }

    /// Who is calling, if it may do `scope` to the flat packages.
    ///
    /// While reads are public everybody is anonymous in reading: clients send along tokens that are meant for others.
    pub async fn authorize(
        &self,
        authorization: Option<&HeaderValue>,
        scope: Scope,
    ) -> Result<Caller, Denied> {
        if scope == Scope::Read && !self.private_reads {
            return Ok(Caller::anonymous());
        }
        self.counted(self.identify(authorization).await.and_then(|caller| {
            caller.may(scope)?;
            caller.may_touch(None)?;
            Ok(caller)
        }))
    }

    /// Who is calling, if it may read `repository` (`owner/repo`, in any case).
    pub async fn visit(
        &self,
        authorization: Option<&HeaderValue>,
        repository: &str,
    ) -> Result<Visitor, Denied> {
        self.counted(self.visitor(authorization, repository).await)
    }

    async fn visitor(
        &self,
        authorization: Option<&HeaderValue>,
        repository: &str,
    ) -> Result<Visitor, Denied> {
        let private = self.is_private(repository);
        let caller = match authorization {
            Some(_) if self.has_credentials() => self.identify(authorization).await,
            _ => Err(Denied::Missing),
        };
        let caller = caller.and_then(|caller| caller.may_touch(Some(repository)).map(|()| caller));
        let writes = |caller: &Caller| caller.may(Scope::Write).is_ok();
        if !private && !self.private_reads {
            let caller = caller.unwrap_or_else(|_| Caller::anonymous());
            return Ok(Visitor { writes: writes(&caller), caller, private });
        }
        match caller.and_then(|caller| caller.may(Scope::Read).map(|()| caller)) {
            Ok(caller) => Ok(Visitor { writes: writes(&caller), caller, private }),
            Err(Denied::Unavailable) => Err(Denied::Unavailable),
            Err(_) if private => Err(Denied::Hidden),
            Err(denied) => Err(denied),
        }
    }

    /// Who is calling, if it may do `scope` in `repository` (`owner/repo`, in any case).
    pub async fn authorize_in(
        &self,
        authorization: Option<&HeaderValue>,
        scope: Scope,
        repository: &str,
    ) -> Result<Caller, Denied> {
        self.counted(self.allowed_in(authorization, scope, repository).await)
    }

    async fn allowed_in(
        &self,
        authorization: Option<&HeaderValue>,
        scope: Scope,
        repository: &str,
    ) -> Result<Caller, Denied> {
        let caller = self.identify(authorization).await?;
        match caller.may_touch(Some(repository)).and_then(|()| caller.may(scope)) {
            Err(_)
                if self.is_private(repository) && self.visitor(authorization, repository).await.is_err() =>
            {
                Err(Denied::Hidden)
            }
            Err(denied) => Err(denied),
            Ok(()) => Ok(caller),
        }
    }

    /// Whether a repository is hidden from strangers.
    fn is_private(&self, repository: &str) -> bool {
        covered(&self.private_repositories, repository)
    }

    /// Who is calling, whatever it wants to do.
    pub async fn authenticate(&self, authorization: Option<&HeaderValue>) -> Result<Caller, Denied> {
        self.counted(self.identify(authorization).await)
    }

    async fn identify(&self, authorization: Option<&HeaderValue>) -> Result<Caller, Denied> {
        if !self.has_credentials() {
            return Err(Denied::Invalid(
                "this server has no token yet, so nobody may do this; set `AUTH_TOKEN` on the server".into(),
            ));
        }
        let token = presented(authorization.ok_or(Denied::Missing)?)?;
        if token.is_empty() {
            return Err(Denied::Missing);
        }
        if let Some(caller) = self.known(&token) {
            return Ok(caller.clone());
        }
        match &self.jwt {
            Some(jwt) if jwt::looks_like_one(&token) => jwt.verify(&token).await,
            _ => Err(Denied::Invalid("this token is not valid here; check it, or make a new one".into())),
        }
    }

    fn known(&self, token: &[u8]) -> Option<&Caller> {
        let sha256: [u8; 32] = Sha256::digest(token).into();
        let mut found = u64::MAX;
        for (index, known) in (0..).zip(&self.tokens) {
            found.conditional_assign(&index, known.sha256.ct_eq(&sha256));
        }
        let index = usize::try_from(found).ok()?;
        self.tokens.get(index).map(|known| &known.caller)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.tokens.iter().map(|token| &token.caller.name).collect();
        f.debug_struct("Authenticator")
            .field("private_reads", &self.private_reads)
            .field("private_repositories", &self.private_repositories)
            .field("tokens", &names)
            .field("jwt", &self.jwt)
            .finish_non_exhaustive()
    }
}

impl Token {
    fn new(named: &NamedToken) -> anyhow::Result<Self> {
        ensure!(!named.name.trim().is_empty(), "`name` is empty; the log needs it to say who did what");
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&named.sha256, &mut sha256).ok().context(
            "`sha256` is not 64 hex digits; make it with `printf %s \"$TOKEN\" | sha256sum`, not from the token itself",
        )?;
        Ok(Self {
            sha256,
            caller: Caller {
                name: named.name.clone(),
                scopes: scopes(&named.scopes)?,
                repositories: named
                    .repositories
                    .iter()
                    .map(|text| repository_pattern(text).with_context(|| not_a_pattern(text)))
                    .collect::<anyhow::Result<_>>()?,
            },
        })
    }
}

/// The token of an `Authorization` header (RFC 9110, section 11.6.2); empty if it has none.
fn presented(authorization: &HeaderValue) -> Result<Cow<'_, [u8]>, Denied> {
    let text = authorization.as_bytes().trim_ascii();
    if text.len() > MAX_AUTHORIZATION {
        return Err(Denied::Invalid(format!(
            "`Authorization` is longer than {MAX_AUTHORIZATION} bytes; send a shorter token"
        )));
    }
    let end = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    let (scheme, credentials) = (text[..end].to_ascii_lowercase(), text[end..].trim_ascii());
    match scheme.as_slice() {
        b"" | b"bearer" | b"token" => Ok(Cow::Borrowed(credentials)),
        b"basic" => password(credentials).map(Cow::Owned).ok_or_else(|| {
            Denied::Invalid(
                "`Authorization: Basic` is not the base64 of `user:token`; send it as such".into(),
            )
        }),
        _ => Err(Denied::Invalid(
            "this scheme of `Authorization` is not known here; send `Authorization: Bearer <token>`".into(),
        )),
    }
}

/// The password of Basic credentials: all that follows the first colon (RFC 7617, section 2).
fn password(credentials: &[u8]) -> Option<Vec<u8>> {
    let mut pair = STANDARD.decode(credentials).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair.split_off(colon + 1))
}

/// Whether one of the patterns means this repository.
fn covered(patterns: &[String], repository: &str) -> bool {
    let repository = repository.to_ascii_lowercase();
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(owner) => repository.starts_with(owner),
        None => repository == *pattern,
    })
}

fn scopes(configured: &[Scope]) -> anyhow::Result<BTreeSet<Scope>> {
    ensure!(!configured.is_empty(), "`scopes` is empty; name at least one of `read`, `write` and `delete`");
    Ok(configured.iter().copied().collect())
}

/// A pattern of [`Caller::repositories`], if this is one.
fn repository_pattern(text: &str) -> Option<String> {
    let (owner, repository) = text.split_once('/')?;
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    (is_name(owner) && (repository == "*" || is_name(repository))).then(|| text.to_ascii_lowercase())
}

fn not_a_pattern(text: &str) -> String {
    format!("`repositories`: `{text}` is neither `owner/repository` nor `owner/*`")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOKEN: &str = "correct horse";

    fn auth(mut config: Value) -> config::Auth {
        for (key, default) in [("private_reads", json!(false)), ("tokens", json!([]))] {
            config.as_object_mut().unwrap().entry(key).or_insert(default);
        }
        serde_json::from_value(config).unwrap()
    }

    fn with_static_token() -> Authenticator {
        Authenticator::new(Some(&Secret::new(TOKEN)), &auth(json!({}))).unwrap()
    }

    fn named(name: &str, token: &str, scopes: &[&str], repositories: &[&str]) -> Value {
        let sha256 = hex::encode(Sha256::digest(token));
        json!({ "name": name, "sha256": sha256, "scopes": scopes, "repositories": repositories })
    }

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    async fn write(authenticator: &Authenticator, authorization: &str) -> Result<String, Denied> {
        let caller = authenticator.authorize(Some(&header(authorization)), Scope::Write).await?;
        Ok(caller.name)
    }

    #[tokio::test]
    async fn the_static_token_may_do_everything() {
        let authenticator = with_static_token();
        let caller = authenticator.authenticate(Some(&header("Bearer correct horse"))).await.unwrap();
        assert_eq!(caller.name, "auth_token");
        for scope in Scope::ALL {
            caller.may(scope).unwrap();
        }
        caller.may_touch(None).unwrap();
        caller.may_touch(Some("any/repository")).unwrap();
    }

    #[tokio::test]
    async fn every_spelling_of_the_header_is_understood() {
        let authenticator = with_static_token();
        let basic = STANDARD.encode("x-access-token:correct horse");
        for authorization in [
            "Bearer correct horse",
            "bearer correct horse",
            "BEARER   correct horse ",
            "token correct horse",
            "Token correct horse",
            &format!("Basic {basic}"),
            &format!("basic {basic}"),
        ] {
            assert_eq!(
                write(&authenticator, authorization).await,
                Ok("auth_token".into()),
                "{authorization}"
            );
        }
    }

    #[tokio::test]
    async fn a_password_may_contain_colons() {
        let authenticator = Authenticator::new(Some(&Secret::new("a:b:")), &auth(json!({}))).unwrap();
        let basic = format!("Basic {}", STANDARD.encode("user:a:b:"));
        assert_eq!(write(&authenticator, &basic).await, Ok("auth_token".into()));
    }

    #[tokio::test]
    async fn an_empty_token_is_no_token() {
        let authenticator = with_static_token();
        assert_eq!(authenticator.authorize(None, Scope::Write).await, Err(Denied::Missing));
        let basic = format!("Basic {}", STANDARD.encode("user:"));
        for authorization in ["", "Bearer", "Bearer ", "token", &basic] {
            assert_eq!(write(&authenticator, authorization).await, Err(Denied::Missing), "{authorization:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_the_token_is_refused() {
        let authenticator = with_static_token();
        let no_colon = format!("Basic {}", STANDARD.encode(TOKEN));
        let as_user = format!("Basic {}", STANDARD.encode("correct horse:x"));
        let digest = format!("Bearer {}", hex::encode(Sha256::digest(TOKEN)));
        for authorization in [
            "Bearer wrong",
            "Bearer correct hors",
            "Bearer correct horse2",
            "Bearer Correct horse",
            "Bearer a.b.c",
            "Digest correct horse",
            "correct horse",
            "Basic !",
            &no_colon,
            &as_user,
            &digest,
        ] {
            let refusal = write(&authenticator, authorization).await.unwrap_err();
            assert!(matches!(refusal, Denied::Invalid(_)), "{authorization}: {refusal:?}");
            assert!(!refusal.to_string().contains("horse"), "{refusal}");
        }
    }

    #[tokio::test]
    async fn a_token_of_unreasonable_length_is_refused_unread() {
        let long = "x".repeat(MAX_AUTHORIZATION);
        let authenticator = Authenticator::new(Some(&Secret::new(long.clone())), &auth(json!({}))).unwrap();
        let refusal = write(&authenticator, &format!("Bearer {long}")).await.unwrap_err();
        assert!(matches!(refusal, Denied::Invalid(text) if text.contains("longer than 16384 bytes")));
    }

    #[tokio::test]
    async fn a_foreign_token_is_ignored_on_a_public_read() {
        let authenticator = with_static_token();
        for authorization in ["Bearer ghp_0123", "Bearer a.b.c", "Digest x", "Basic !"] {
            let caller = authenticator.authorize(Some(&header(authorization)), Scope::Read).await;
            assert_eq!(caller, Ok(Caller::anonymous()));
        }
        assert_eq!(authenticator.authorize(None, Scope::Read).await, Ok(Caller::anonymous()));
        Caller::anonymous().may(Scope::Write).unwrap_err();
    }

    #[tokio::test]
    async fn private_reads_need_a_token_with_read() {
        let config = auth(json!({
            "private_reads": true,
            "tokens": [named("ci", "w", &["write"], &[]), named("mirror", "r", &["read"], &[])],
        }));
        let authenticator = Authenticator::new(None, &config).unwrap();
        let read = async |token: &str| {
            let authorization = header(&format!("Bearer {token}"));
            authenticator.authorize(Some(&authorization), Scope::Read).await
        };
        assert_eq!(authenticator.authorize(None, Scope::Read).await, Err(Denied::Missing));
        assert!(matches!(read("foreign").await, Err(Denied::Invalid(_))));
        assert!(matches!(read("w").await, Err(Denied::Forbidden(_))));
        assert_eq!(read("r").await.unwrap().name, "mirror");
    }

    #[tokio::test]
    async fn a_hashed_token_reaches_as_far_as_its_scopes() {
        let config = auth(json!({
            "tokens": [named("ci", "w", &["write"], &[]), named("cleaner", "d", &["read", "delete"], &[])],
        }));
        let authenticator = Authenticator::new(Some(&Secret::new(TOKEN)), &config).unwrap();
        let attempt = async |token: &str, scope| {
            let authorization = header(&format!("Bearer {token}"));
            authenticator.authorize(Some(&authorization), scope).await
        };
        assert_eq!(attempt("w", Scope::Write).await.unwrap().name, "ci");
        assert_eq!(attempt("d", Scope::Delete).await.unwrap().name, "cleaner");
        assert_eq!(attempt(TOKEN, Scope::Delete).await.unwrap().name, "auth_token");
        assert_eq!(
            attempt("w", Scope::Delete).await.unwrap_err().to_string(),
            "the token of `ci` lacks the scope `delete`; use one that has it"
        );
        assert!(matches!(attempt("d", Scope::Write).await, Err(Denied::Forbidden(_))));
        assert!(matches!(attempt("x", Scope::Write).await, Err(Denied::Invalid(_))));
    }

    #[tokio::test]
    async fn a_token_limited_to_repositories_does_not_reach_the_packages() {
        let config =
            auth(json!({ "tokens": [named("ci", "w", &["write"], &["Acme/App", "tools/*", "a.b/c"])] }));
        let authenticator = Authenticator::new(None, &config).unwrap();
        assert!(matches!(write(&authenticator, "Bearer w").await, Err(Denied::Forbidden(_))));

        let caller = authenticator.authenticate(Some(&header("Bearer w"))).await.unwrap();
        for within in ["acme/app", "ACME/APP", "tools/any", "Tools/x", "a.b/c"] {
            caller.may_touch(Some(within)).unwrap();
        }
        for outside in ["acme/app2", "acme/ap", "toolsmith/x", "other/app", "aXb/c", "tools"] {
            assert!(matches!(caller.may_touch(Some(outside)), Err(Denied::Forbidden(_))), "{outside}");
        }
        assert_eq!(
            caller.may_touch(None).unwrap_err().to_string(),
            "the token of `ci` does not reach the packages, only `acme/app`, `tools/*`, `a.b/c`; use one that does"
        );
    }

    #[tokio::test]
    async fn with_nothing_configured_a_write_says_how_to_set_a_token() {
        for blank in [None, Some(Secret::new("")), Some(Secret::new(" \n"))] {
            let authenticator = Authenticator::new(blank.as_ref(), &auth(json!({}))).unwrap();
            assert!(!authenticator.has_credentials());
            for authorization in [None, Some(header("Bearer x")), Some(header("Bearer"))] {
                let refusal =
                    authenticator.authorize(authorization.as_ref(), Scope::Write).await.unwrap_err();
                assert!(
                    matches!(&refusal, Denied::Invalid(text) if text.contains("`AUTH_TOKEN`")),
                    "{refusal:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_newline_at_the_end_of_the_configured_token_does_no_harm() {
        let authenticator = Authenticator::new(Some(&Secret::new("t0ken\n")), &auth(json!({}))).unwrap();
        assert_eq!(write(&authenticator, "Bearer t0ken").await, Ok("auth_token".into()));
    }

    #[tokio::test]
    async fn a_json_web_token_goes_its_way_only_when_it_is_configured() {
        let secret = "0123456789abcdef0123456789abcdef";
        let claims = json!({ "iss": "me", "aud": "us", "sub": "robot", "exp": 99_999_999_999_u64 });
        let token = jsonwebtoken::encode(
            &jsonwebtoken::Header::default(),
            &claims,
            &jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap();
        let config = auth(json!({ "jwt": {
            "issuer": "me", "audience": ["us"], "algorithms": ["HS256"], "secret": secret,
            "rules": [{ "claims": { "sub": "robot" }, "scopes": ["write"] }],
        } }));
        let bearer = format!("Bearer {token}");
        let authenticator = Authenticator::new(None, &config).unwrap();
        assert_eq!(write(&authenticator, &bearer).await, Ok("robot".into()));
        assert!(matches!(write(&authenticator, "Bearer opaque").await, Err(Denied::Invalid(_))));
        assert!(matches!(write(&with_static_token(), &bearer).await, Err(Denied::Invalid(_))));
    }

    #[test]
    fn a_bad_configuration_is_refused_by_key_and_remedy() {
        let with = |key: &str, value: Value| {
            let mut token = named("ci", "w", &["write"], &[]);
            token[key] = value;
            token
        };
        let good = named("ci", "w", &["write"], &[]);
        for (config, key, remedy) in [
            (json!({ "tokens": [with("sha256", json!("w"))] }), "auth.tokens[0]", "sha256sum"),
            (json!({ "tokens": [with("sha256", json!("g".repeat(64)))] }), "auth.tokens[0]", "sha256sum"),
            (json!({ "tokens": [with("name", json!(" "))] }), "auth.tokens[0]", "`name`"),
            (json!({ "tokens": [with("scopes", json!([]))] }), "auth.tokens[0]", "name at least one"),
            (json!({ "tokens": [with("repositories", json!(["acme"]))] }), "auth.tokens[0]", "owner/*"),
            (json!({ "tokens": [with("repositories", json!(["*/*"]))] }), "auth.tokens[0]", "owner/*"),
            (
                json!({ "tokens": [with("name", json!("auth_token"))] }),
                "auth.tokens[0].name",
                "name of its own",
            ),
            (
                json!({ "tokens": [good, named("ci", "x", &["read"], &[])] }),
                "auth.tokens[1].name",
                "of its own",
            ),
            (
                json!({ "tokens": [good, named("b", "w", &["read"], &[])] }),
                "auth.tokens[1].sha256",
                "for each",
            ),
            (json!({ "tokens": [named("b", TOKEN, &["read"], &[])] }), "auth.tokens[0].sha256", "auth_token"),
        ] {
            let error = Authenticator::new(Some(&Secret::new(TOKEN)), &auth(config)).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(key) && error.contains(remedy), "{error}");
        }
        let error = Authenticator::new(None, &auth(json!({ "private_reads": true }))).unwrap_err();
        assert!(error.to_string().contains("`auth.private_reads`"), "{error}");
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = auth(json!({
            "tokens": [named("ci", "w", &["write"], &[])],
            "jwt": {
                "issuer": "me", "audience": ["us"], "algorithms": ["HS256"],
                "secret": "0123456789abcdef0123456789abcdef",
                "rules": [{ "claims": { "sub": "robot" }, "scopes": ["write"] }],
            },
        }));
        let token = Secret::new(TOKEN);
        let authenticator = Authenticator::new(Some(&token), &config).unwrap();
        let shown = format!("{authenticator:?}");
        for hidden in [
            TOKEN,
            "0123456789abcdef",
            "[48, 49, 50",
            &hex::encode(Sha256::digest(TOKEN)),
            &hex::encode(Sha256::digest("w")),
            &format!("{:?}", Sha256::digest(TOKEN)),
        ] {
            assert!(!shown.contains(hidden), "{hidden} in {shown}");
        }
        assert!(shown.contains("auth_token") && shown.contains("ci") && shown.contains("me"), "{shown}");
        let shown = format!("{config:?} {token:?}");
        assert!(!shown.contains("0123456789abcdef") && !shown.contains(TOKEN), "{shown}");
    }
}
