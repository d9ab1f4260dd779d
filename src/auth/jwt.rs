//! Which JSON Web Tokens are believed, and what they grant.
//!
//! A token is believed if all of this holds:
//!
//! - its `alg` is configured *and* suits the key ([`keys`](super::keys)): a token cannot choose how it is verified,
//!   `none` is nothing one can configure, and a public key never serves as an HMAC secret;
//! - its signature is good, and it lists no extension that must be understood (`crit`, RFC 7515, section 4.1.11);
//! - `iss` is the configured issuer, `aud` has one of ours, `exp` is there and in the future, `nbf` in the past, both
//!   give or take the leeway;
//! - every other required claim is there.
//!
//! The first rule all of whose claims match says what it may do, and where. A token no rule matches may do nothing:
//! that its issuer is trusted says only who it is.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    time::Duration,
};

use anyhow::{Context, ensure};
use jsonwebtoken::{
    Algorithm, Validation, decode, decode_header,
    errors::{Error, ErrorKind},
};
use serde_json::Value;

use super::{Caller, Denied, Scope, keys::Keys, not_a_pattern, repository_pattern, scopes};
use crate::{config, metrics::Metrics};

/// More than clocks differ, less than a stolen token needs to be useful.
const MAX_LEEWAY: Duration = Duration::from_mins(10);

type Claims = serde_json::Map<String, Value>;

/// Whether the JWT way is worth trying: three parts (RFC 7515, section 3.1).
pub(super) fn looks_like_one(token: &[u8]) -> bool {
    token.split(|byte| *byte == b'.').count() == 3
}

/// Believes the tokens of one issuer.
pub(super) struct Verifier {
    /// Its `algorithms` are set for each token: the one of its header, once that is known to be configured.
    validation: Validation,
    algorithms: Vec<Algorithm>,
    required_claims: Vec<String>,
    rules: Vec<Rule>,
    keys: Keys,
}

impl Verifier {
    /// Counts readings of the issuer's keys from here on.
    pub(super) fn measured(&self, metrics: Metrics) {
        self.keys.measured(metrics);
    }

    /// Checks the configuration and reads its key file.
    pub(super) fn new(config: &config::Jwt) -> anyhow::Result<Self> {
        ensure!(
            !config.issuer.trim().is_empty(),
            "`auth.jwt.issuer` is empty; set it to the `iss` of the tokens to believe"
        );
        ensure!(
            !config.audience.is_empty() && config.audience.iter().all(|text| !text.trim().is_empty()),
            "`auth.jwt.audience` is empty; name the `aud` of the tokens meant for this server"
        );
        ensure!(
            config.leeway <= MAX_LEEWAY,
            "`auth.jwt.leeway` is more than {}; set less, and the clocks right",
            humantime::format_duration(MAX_LEEWAY)
        );
        ensure!(
            !config.rules.is_empty(),
            "`auth.jwt.rules` is empty, so no token would be granted anything; add one"
        );
        let algorithms = algorithms(&config.algorithms)?;
        let rule = |(index, rule)| {
            Rule::new(rule).with_context(|| format!("`auth.jwt.rules[{index}]` is not usable"))
        };
        let mut validation = Validation::default();
        validation.set_issuer(&[&config.issuer]);
        validation.set_audience(&config.audience);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = config.leeway.as_secs();
        Ok(Self {
            validation,
            keys: Keys::new(config, &algorithms)?,
            algorithms,
            required_claims: config.required_claims.clone(),
            rules: config.rules.iter().enumerate().map(rule).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Who sends this token.
    pub(super) async fn verify(&self, token: &[u8]) -> Result<Caller, Denied> {
        let claims = self.claims(token).await?;
        let is_absent = |name: &&String| claims.get(*name).is_none_or(Value::is_null);
        if let Some(absent) = self.required_claims.iter().find(is_absent) {
            return Err(lacks(absent));
        }
        let name = claims.get("sub").and_then(Value::as_str).unwrap_or("jwt");
        let grant = self.rules.iter().find_map(|rule| rule.grant(name, &claims));
        grant.ok_or_else(|| {
            Denied::Forbidden(format!(
                "the token of `{name}` is valid, but no rule in `auth.jwt.rules` matches it"
            ))
        })
    }

    /// The claims of a token whose signature, issuer, audience and time are good.
    async fn claims(&self, token: &[u8]) -> Result<Claims, Denied> {
        let header = decode_header(token).map_err(|error| refusal(&error))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(refusal(&ErrorKind::InvalidAlgorithm.into()));
        }
        if header.crit.is_some() {
            return Err(Denied::Invalid("the token uses `crit`, which is not understood here".into()));
        }
        let keys = self.keys.find(&header).await?;
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let mut last = ErrorKind::InvalidSignature.into();
        for key in keys.iter().filter(|key| key.fits(&header)) {
            match decode(token, &key.decoding, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(error) => last = error,
            }
        }
        Err(refusal(&last))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("issuer", &self.validation.iss)
            .field("audience", &self.validation.aud)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

/// What a token all of whose claims match is granted.
struct Rule {
    claims: Vec<(String, Pattern)>,
    scopes: BTreeSet<Scope>,
    /// Patterns in which `{claim}` stands for the token's value.
    repositories: Vec<String>,
}

enum Pattern {
    Exactly(String),
    StartsWith(String),
}

impl Rule {
    fn new(config: &config::JwtRule) -> anyhow::Result<Self> {
        ensure!(
            !config.claims.is_empty(),
            "`claims` is empty; name a claim, or `sub: \"*\"` to mean every token of the issuer"
        );
        let claim = |(name, text): (&String, &String)| {
            let start = text.strip_suffix('*');
            ensure!(
                !start.unwrap_or(text).contains('*'),
                "`claims.{name}`: `*` works at the end alone; drop the others"
            );
            let exactly = || Pattern::Exactly(text.clone());
            let pattern = start.map_or_else(exactly, |start| Pattern::StartsWith(start.to_owned()));
            Ok((name.clone(), pattern))
        };
        for text in &config.repositories {
            ensure!(is_template(text), "{}, nor one with a `{{claim}}` in it", not_a_pattern(text));
        }
        Ok(Self {
            claims: config.claims.iter().map(claim).collect::<anyhow::Result<_>>()?,
            scopes: scopes(&config.scopes)?,
            repositories: config.repositories.clone(),
        })
    }

    /// `None` if the rule does not match, or if a claim its repositories name is not fit for one: an empty list would
    /// mean everywhere.
    fn grant(&self, name: &str, claims: &Claims) -> Option<Caller> {
        let matches = |(name, pattern): &(String, Pattern)| {
            claims.get(name).is_some_and(|value| pattern.matches(value))
        };
        if !self.claims.iter().all(matches) {
            return None;
        }
        // A `*` of the token's own would widen what the operator wrote.
        let value = |name: &str| claims.get(name)?.as_str().filter(|value| !value.contains('*'));
        let repositories =
            self.repositories.iter().map(|template| fill(template, value)).collect::<Option<_>>()?;
        Some(Caller { name: name.to_owned(), scopes: self.scopes.clone(), repositories })
    }
}

impl Pattern {
    /// Of a list, one element is enough: groups and roles are lists.
    fn matches(&self, value: &Value) -> bool {
        let is_like = |text: &str| match self {
            Self::Exactly(whole) => text == whole,
            Self::StartsWith(start) => text.starts_with(start),
        };
        match value {
            Value::String(text) => is_like(text),
            Value::Bool(_) | Value::Number(_) => is_like(&value.to_string()),
            Value::Array(values) => values.iter().any(|value| !value.is_array() && self.matches(value)),
            Value::Null | Value::Object(_) => false,
        }
    }
}

/// Whether claims can make a repository pattern of this, be it with names or with whole `owner/repo`s in them.
fn is_template(text: &str) -> bool {
    ["name", "owner/repo"]
        .iter()
        .any(|value| fill(text, |claim| (!claim.is_empty()).then_some(value)).is_some())
}

/// The repository pattern that `template` is with each `{claim}` replaced by its value.
fn fill<'a>(template: &str, value: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let (mut filled, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once('{') {
        let (claim, after) = after.split_once('}')?;
        filled.push_str(before);
        filled.push_str(value(claim)?);
        rest = after;
    }
    filled.push_str(rest);
    repository_pattern(&filled)
}

fn algorithms(configured: &[String]) -> anyhow::Result<Vec<Algorithm>> {
    ensure!(
        !configured.is_empty(),
        "`auth.jwt.algorithms` is empty; name those the issuer signs with, such as `RS256`"
    );
    let algorithms = configured.iter().map(|name| {
        name.parse().ok().with_context(|| {
            format!(
                "`auth.jwt.algorithms`: `{name}` is not one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, \
                 PS512, ES256, ES384 and EdDSA"
            )
        })
    });
    let unique: HashSet<Algorithm> = algorithms.collect::<anyhow::Result<_>>()?;
    Ok(unique.into_iter().collect())
}

fn lacks(claim: &str) -> Denied {
    Denied::Invalid(format!("the token lacks the claim `{claim}`; ask its issuer for one that has it"))
}

/// Says what is wrong with a token. Claims are judged after the signature, so what is told about them is told to
/// holders of a real token.
fn refusal(error: &Error) -> Denied {
    let text = match error.kind() {
        ErrorKind::ExpiredSignature => "the token has expired; get a new one",
        ErrorKind::ImmatureSignature => "the token is not valid yet; wait, or set the clocks right",
        ErrorKind::InvalidIssuer => "the token is from an issuer that is not trusted here",
        ErrorKind::InvalidAudience => {
            "the token is for another audience; ask its issuer for one for this server"
        }
        ErrorKind::InvalidAlgorithm => "the token is signed by an algorithm that is not accepted here",
        ErrorKind::MissingRequiredClaim(claim) => return lacks(claim),
        _ => "this token is not valid here; check it, or get a new one",
    };
    Denied::Invalid(text.into())
}

#[cfg(test)]
pub(super) mod tests {
    use std::{io::Write, sync::LazyLock};

    use aws_lc_rs::{
        encoding::AsDer,
        rsa::KeySize,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
    };
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    };
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp, jwk::Jwk};
    use serde_json::json;
    use tempfile::NamedTempFile;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// A key pair that signs tokens as an issuer does.
    pub(in crate::auth) struct Issuer {
        signing: EncodingKey,
        pub(in crate::auth) public_pem: String,
    }

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    impl Issuer {
        pub(in crate::auth) fn rsa() -> Self {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let private = pem("PRIVATE KEY", AsDer::as_der(&pair).unwrap().as_ref());
            Self {
                signing: EncodingKey::from_rsa_pem(private.as_bytes()).unwrap(),
                public_pem: pem("PUBLIC KEY", AsDer::as_der(pair.public_key()).unwrap().as_ref()),
            }
        }

        pub(in crate::auth) fn p256() -> Self {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            Self {
                signing: EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref()),
                public_pem: pem("PUBLIC KEY", AsDer::as_der(pair.public_key()).unwrap().as_ref()),
            }
        }

        pub(in crate::auth) fn ed25519() -> Self {
            let pair = Ed25519KeyPair::generate().unwrap();
            Self {
                signing: EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()),
                public_pem: pem("PUBLIC KEY", AsDer::as_der(pair.public_key()).unwrap().as_ref()),
            }
        }

        fn hmac(secret: &[u8]) -> Self {
            Self { signing: EncodingKey::from_secret(secret), public_pem: String::new() }
        }

        pub(in crate::auth) fn sign(&self, algorithm: Algorithm, claims: &Value) -> String {
            encode(&Header::new(algorithm), claims, &self.signing).unwrap()
        }

        pub(in crate::auth) fn sign_as(&self, kid: &str, algorithm: Algorithm) -> String {
            let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
            encode(&header, &claims(), &self.signing).unwrap()
        }

        pub(in crate::auth) fn jwk(&self, kid: &str, algorithm: Algorithm) -> Value {
            let mut jwk = Jwk::from_encoding_key(&self.signing, algorithm).unwrap();
            jwk.common.key_id = Some(kid.to_owned());
            serde_json::to_value(jwk).unwrap()
        }
    }

    /// Generating RSA keys is slow; one serves every test that does not need its own.
    pub(in crate::auth) static RSA: LazyLock<Issuer> = LazyLock::new(Issuer::rsa);

    pub(in crate::auth) fn claims() -> Value {
        json!({
            "iss": "https://issuer.example",
            "aud": "releases",
            "sub": "repo:acme/app:ref:refs/tags/v1",
            "exp": get_current_timestamp() + 300,
            "repository": "Acme/App",
            "repository_owner": "acme",
        })
    }

    fn claims_with(changes: &Value) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    }

    fn claims_without(name: &str) -> Value {
        let mut claims = claims();
        claims.as_object_mut().unwrap().shift_remove(name).unwrap();
        claims
    }

    pub(in crate::auth) fn config(changes: &Value) -> config::Jwt {
        let mut config = json!({
            "issuer": "https://issuer.example",
            "audience": ["other", "releases"],
            "algorithms": ["HS256"],
            "rules": [{ "claims": { "sub": "repo:acme/*" }, "scopes": ["write"] }],
        });
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(config).unwrap()
    }

    pub(in crate::auth) fn file(text: impl AsRef<[u8]>) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_ref()).unwrap();
        file
    }

    fn with_secret(changes: &Value) -> Verifier {
        let mut config = config(changes);
        config.secret = Some(config::Secret::new(SECRET));
        Verifier::new(&config).unwrap()
    }

    fn with_pem(issuer: &Issuer, algorithms: &[&str]) -> anyhow::Result<Verifier> {
        let pem = file(&issuer.public_pem);
        Verifier::new(&config(&json!({ "algorithms": algorithms, "public_key_file": pem.path() })))
    }

    async fn verify(verifier: &Verifier, token: &str) -> Result<Caller, Denied> {
        verifier.verify(token.as_bytes()).await
    }

    async fn verify_claims(verifier: &Verifier, claims: &Value) -> Result<Caller, Denied> {
        verify(verifier, &Issuer::hmac(SECRET.as_bytes()).sign(Algorithm::HS256, claims)).await
    }

    #[track_caller]
    fn assert_invalid(answer: Result<Caller, Denied>, because: &str) {
        let Err(Denied::Invalid(text)) = answer else { panic!("{answer:?}") };
        assert!(text.contains(because), "{text}");
    }

    #[tokio::test]
    async fn a_good_token_of_every_family_is_believed() {
        let (hmac, p256, ed25519) = (Issuer::hmac(SECRET.as_bytes()), Issuer::p256(), Issuer::ed25519());
        let all_hmac = with_secret(&json!({ "algorithms": ["HS256", "HS384", "HS512"] }));
        let all_rsa = with_pem(&RSA, &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]).unwrap();
        let es256 = with_pem(&p256, &["ES256"]).unwrap();
        let eddsa = with_pem(&ed25519, &["EdDSA"]).unwrap();
        for (verifier, issuer, algorithm) in [
            (&all_hmac, &hmac, Algorithm::HS256),
            (&all_hmac, &hmac, Algorithm::HS512),
            (&all_rsa, &RSA, Algorithm::RS256),
            (&all_rsa, &RSA, Algorithm::RS512),
            (&all_rsa, &RSA, Algorithm::PS256),
            (&all_rsa, &RSA, Algorithm::PS384),
            (&es256, &p256, Algorithm::ES256),
            (&eddsa, &ed25519, Algorithm::EdDSA),
        ] {
            let caller = verify(verifier, &issuer.sign(algorithm, &claims())).await.unwrap();
            assert_eq!(caller.name, "repo:acme/app:ref:refs/tags/v1", "{algorithm:?}");
            assert_eq!(caller.scopes, BTreeSet::from([Scope::Write]));
        }
    }

    #[tokio::test]
    async fn another_key_of_the_same_kind_is_refused() {
        let (p256, ed25519) = (Issuer::p256(), Issuer::ed25519());
        for (verifier, token) in [
            (with_secret(&json!({})), Issuer::hmac(b"guess").sign(Algorithm::HS256, &claims())),
            (with_pem(&RSA, &["RS256"]).unwrap(), Issuer::rsa().sign(Algorithm::RS256, &claims())),
            (with_pem(&p256, &["ES256"]).unwrap(), Issuer::p256().sign(Algorithm::ES256, &claims())),
            (with_pem(&ed25519, &["EdDSA"]).unwrap(), Issuer::ed25519().sign(Algorithm::EdDSA, &claims())),
        ] {
            assert_invalid(verify(&verifier, &token).await, "not valid here");
        }
    }

    #[tokio::test]
    async fn a_public_key_used_as_a_secret_is_refused() {
        let verifier = with_pem(&RSA, &["RS256"]).unwrap();
        let der = STANDARD.decode(RSA.public_pem.lines().nth(1).unwrap()).unwrap();
        for secret in [RSA.public_pem.as_bytes(), RSA.public_pem.trim().as_bytes(), &der] {
            let token = Issuer::hmac(secret).sign(Algorithm::HS256, &claims());
            assert_invalid(verify(&verifier, &token).await, "algorithm");
        }
    }

    #[tokio::test]
    async fn an_algorithm_that_is_not_configured_is_refused_even_if_the_key_could() {
        let verifier = with_pem(&RSA, &["RS256"]).unwrap();
        assert_invalid(verify(&verifier, &RSA.sign(Algorithm::PS256, &claims())).await, "algorithm");
        let token = Issuer::hmac(SECRET.as_bytes()).sign(Algorithm::HS512, &claims());
        assert_invalid(verify(&with_secret(&json!({})), &token).await, "algorithm");
    }

    #[tokio::test]
    async fn an_unsigned_token_is_refused() {
        let verifier = with_secret(&json!({}));
        let signed = Issuer::hmac(SECRET.as_bytes()).sign(Algorithm::HS256, &claims());
        let (message, signature) = signed.rsplit_once('.').unwrap();
        let payload = message.split_once('.').unwrap().1;
        for alg in ["none", "None", "NONE", ""] {
            let header = URL_SAFE_NO_PAD.encode(json!({ "alg": alg, "typ": "JWT" }).to_string());
            assert_invalid(verify(&verifier, &format!("{header}.{payload}.")).await, "not valid here");
            assert_invalid(
                verify(&verifier, &format!("{header}.{payload}.{signature}")).await,
                "not valid here",
            );
        }
        assert_invalid(verify(&verifier, &format!("{message}.")).await, "not valid here");
        verify(&verifier, &signed).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_token_is_refused() {
        let verifier = with_secret(&json!({}));
        for token in ["..", "a.b.c", "é.b.c", "e30.e30.", "e30.e30.e30"] {
            assert_invalid(verify(&verifier, token).await, "not valid here");
        }
    }

    #[tokio::test]
    async fn a_changed_payload_is_refused() {
        let verifier = with_secret(&json!({}));
        let issuer = Issuer::hmac(SECRET.as_bytes());
        let one = issuer.sign(Algorithm::HS256, &claims());
        let two = issuer.sign(Algorithm::HS256, &claims_with(&json!({ "sub": "repo:acme/other" })));
        let [header, _, signature] = one.split('.').collect::<Vec<_>>()[..] else { panic!("{one}") };
        let forged = format!("{header}.{}.{signature}", two.split('.').nth(1).unwrap());
        assert_invalid(verify(&verifier, &forged).await, "not valid here");
    }

    #[tokio::test]
    async fn an_expired_token_is_refused() {
        let verifier = with_secret(&json!({}));
        let ended = |ago: u64| claims_with(&json!({ "exp": get_current_timestamp() - ago }));
        assert_invalid(verify_claims(&verifier, &ended(90)).await, "expired");
        verify_claims(&verifier, &ended(30)).await.expect("the leeway of a minute");
        let strict = with_secret(&json!({ "leeway": "0s" }));
        assert_invalid(verify_claims(&strict, &ended(30)).await, "expired");
    }

    #[tokio::test]
    async fn a_token_that_is_not_valid_yet_is_refused() {
        let verifier = with_secret(&json!({}));
        let begins = |ahead: u64| claims_with(&json!({ "nbf": get_current_timestamp() + ahead }));
        assert_invalid(verify_claims(&verifier, &begins(90)).await, "not valid yet");
        verify_claims(&verifier, &begins(30)).await.expect("the leeway of a minute");
        assert_invalid(
            verify_claims(&verifier, &claims_with(&json!({ "nbf": "soon" }))).await,
            "not valid here",
        );
    }

    #[tokio::test]
    async fn a_token_for_another_audience_is_refused() {
        let verifier = with_secret(&json!({}));
        for foreign in [json!("elsewhere"), json!(["elsewhere", "Releases"])] {
            assert_invalid(
                verify_claims(&verifier, &claims_with(&json!({ "aud": foreign }))).await,
                "audience",
            );
        }
        assert_invalid(verify_claims(&verifier, &claims_with(&json!({ "aud": [] }))).await, "audience");
        verify_claims(&verifier, &claims_with(&json!({ "aud": ["elsewhere", "releases"] }))).await.unwrap();
    }

    #[tokio::test]
    async fn a_token_of_another_issuer_is_refused() {
        let verifier = with_secret(&json!({}));
        for foreign in ["https://issuer.example/", "https://evil.example", ""] {
            assert_invalid(
                verify_claims(&verifier, &claims_with(&json!({ "iss": foreign }))).await,
                "issuer",
            );
        }
    }

    #[tokio::test]
    async fn a_token_without_a_needed_claim_is_refused() {
        let verifier = with_secret(&json!({ "required_claims": ["repository"] }));
        for name in ["exp", "iss", "aud", "repository"] {
            assert_invalid(verify_claims(&verifier, &claims_without(name)).await, &format!("`{name}`"));
            assert_invalid(
                verify_claims(&verifier, &claims_with(&json!({ name: null }))).await,
                &format!("`{name}`"),
            );
        }
        assert_invalid(verify_claims(&verifier, &claims_with(&json!({ "exp": "never" }))).await, "`exp`");
        verify_claims(&verifier, &claims()).await.unwrap();
    }

    #[tokio::test]
    async fn a_token_with_a_critical_extension_is_refused() {
        let header = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
        let token = encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
        assert_invalid(verify(&with_secret(&json!({})), &token).await, "`crit`");
    }

    #[tokio::test]
    async fn a_key_inside_the_token_is_not_used() {
        let stranger = Issuer::p256();
        let jwk = serde_json::from_value(stranger.jwk("k", Algorithm::ES256)).unwrap();
        let header = Header {
            jwk: Some(jwk),
            jku: Some("http://127.0.0.1:9/keys".into()),
            ..Header::new(Algorithm::ES256)
        };
        let token = encode(&header, &claims(), &stranger.signing).unwrap();
        let verifier = with_pem(&Issuer::p256(), &["ES256"]).unwrap();
        assert_invalid(verify(&verifier, &token).await, "not valid here");
    }

    #[tokio::test]
    async fn a_valid_token_that_no_rule_matches_is_forbidden() {
        let verifier = with_secret(&json!({}));
        for sub in ["repo:acme", "repo:acme2/app", "xrepo:acme/app"] {
            let answer = verify_claims(&verifier, &claims_with(&json!({ "sub": sub }))).await;
            assert!(matches!(answer, Err(Denied::Forbidden(_))), "{sub}: {answer:?}");
        }
        let answer = verify_claims(&verifier, &claims_without("sub")).await;
        assert!(matches!(answer, Err(Denied::Forbidden(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn the_first_rule_that_matches_grants() {
        let verifier = with_secret(&json!({ "rules": [
            { "claims": { "sub": "repo:acme/*", "ref_protected": "true" }, "scopes": ["write", "delete"] },
            { "claims": { "groups": "release-*" }, "scopes": ["write"] },
            { "claims": { "sub": "*" }, "scopes": ["read"] },
        ] }));
        for (changes, granted) in [
            (json!({ "ref_protected": true }), vec![Scope::Write, Scope::Delete]),
            (json!({ "ref_protected": "true" }), vec![Scope::Write, Scope::Delete]),
            (json!({ "ref_protected": false }), vec![Scope::Read]),
            (json!({ "groups": ["staff", "release-team"] }), vec![Scope::Write]),
            (json!({ "groups": [["release-team"]] }), vec![Scope::Read]),
            (json!({ "groups": { "release-team": true } }), vec![Scope::Read]),
            (json!({}), vec![Scope::Read]),
        ] {
            let caller = verify_claims(&verifier, &claims_with(&changes)).await.unwrap();
            assert_eq!(caller.scopes, granted.into_iter().collect(), "{changes}");
        }
    }

    #[tokio::test]
    async fn a_rule_limits_a_token_to_the_repository_it_names() {
        let verifier = with_secret(&json!({ "rules": [{
            "claims": { "sub": "*" },
            "scopes": ["write"],
            "repositories": ["{repository}", "{repository_owner}/*", "shared/tools"],
        }] }));
        let caller = verify_claims(&verifier, &claims()).await.unwrap();
        assert_eq!(caller.repositories, ["acme/app", "acme/*", "shared/tools"]);

        for widening in [
            json!({ "repository": "*" }),
            json!({ "repository": "acme/*" }),
            json!({ "repository": "acme/app/more" }),
            json!({ "repository": "" }),
            json!({ "repository": null }),
            json!({ "repository": ["acme/app"] }),
            json!({ "repository_owner": "acme/app" }),
            json!({ "repository_owner": "" }),
        ] {
            let answer = verify_claims(&verifier, &claims_with(&widening)).await;
            assert!(matches!(answer, Err(Denied::Forbidden(_))), "{widening}: {answer:?}");
        }
        let answer = verify_claims(&verifier, &claims_without("repository")).await;
        assert!(matches!(answer, Err(Denied::Forbidden(_))), "{answer:?}");
    }

    /// Makes a verifier of a changed configuration, which must fail and name the key and the remedy.
    #[track_caller]
    fn assert_refused(changes: &Value, key: &str, remedy: &str) {
        let error = Verifier::new(&config(changes)).map(|_| ()).expect_err(key);
        let error = format!("{error:#}");
        assert!(error.contains(key) && error.contains(remedy), "{changes}: {error}");
        assert!(!error.contains(&SECRET[..8]), "{error}");
    }

    #[test]
    fn a_bad_setting_is_refused_by_key_and_remedy() {
        for (name, value, remedy) in [
            ("issuer", json!(" "), "set it"),
            ("audience", json!([]), "name the `aud`"),
            ("audience", json!([""]), "name the `aud`"),
            ("leeway", json!("1h"), "set less"),
            ("algorithms", json!([]), "RS256"),
            ("algorithms", json!(["none"]), "one of HS256"),
            ("algorithms", json!(["ES512"]), "one of HS256"),
            ("rules", json!([]), "add one"),
        ] {
            assert_refused(&json!({ "secret": SECRET, name: value }), &format!("`auth.jwt.{name}`"), remedy);
        }
    }

    #[test]
    fn a_bad_rule_is_refused_by_key_and_remedy() {
        for (name, value, remedy) in [
            ("claims", json!({}), "`sub: \"*\"`"),
            ("claims", json!({ "sub": "a*b" }), "`claims.sub`"),
            ("scopes", json!([]), "name at least one"),
            ("repositories", json!(["acme"]), "`acme`"),
            ("repositories", json!(["{repository"]), "{claim}"),
            ("repositories", json!(["acme/{}"]), "{claim}"),
            ("repositories", json!(["acme/{repo}/x"]), "{claim}"),
        ] {
            let mut rule = json!({ "claims": { "sub": "x" }, "scopes": ["write"] });
            rule[name] = value;
            assert_refused(&json!({ "secret": SECRET, "rules": [rule] }), "`auth.jwt.rules[0]`", remedy);
        }
    }

    #[test]
    fn a_key_that_does_not_suit_the_algorithms_is_refused() {
        let (rsa, p256) = (file(&RSA.public_pem), file(Issuer::p256().public_pem));
        for (algorithms, source, value, remedy) in [
            (json!(["HS256"]), "secret", json!("short"), "openssl rand -hex 32"),
            (json!(["HS256"]), "secret", json!(RSA.public_pem), "use `auth.jwt.public_key_file`"),
            (json!(["HS256", "HS512"]), "secret", json!(SECRET[..32]), "openssl rand -hex 64"),
            (json!(["HS256", "RS256"]), "secret", json!(SECRET), "`RS256` needs a public key; drop it"),
            (json!(["HS256"]), "public_key_file", json!(rsa.path()), "`HS…`"),
            (json!(["RS256", "HS256"]), "public_key_file", json!(rsa.path()), "`HS…`"),
            (
                json!(["RS256", "ES256"]),
                "public_key_file",
                json!(rsa.path()),
                "cannot verify `ES256`; drop it",
            ),
            (json!(["ES384"]), "public_key_file", json!(p256.path()), "cannot verify `ES384`; drop it"),
            (json!(["HS256"]), "jwks_url", json!("https://keys.example/"), "`HS…`"),
        ] {
            assert_refused(&json!({ "algorithms": algorithms, source: value }), "`auth.jwt.", remedy);
        }
    }

    #[test]
    fn a_key_that_is_not_usable_is_refused_by_key_and_remedy() {
        let private = Ed25519KeyPair::generate().unwrap().to_pkcs8().unwrap();
        let private = file(pem("PRIVATE KEY", private.as_ref()));
        let garbage = file("garbage");
        let unsuited = file(json!({ "keys": [RSA.jwk("k", Algorithm::RS256)] }).to_string());
        for (source, value, remedy) in [
            ("public_key_file", json!(private.path()), "-pubout"),
            ("public_key_file", json!(garbage.path()), "-pubout"),
            ("public_key_file", json!("absent.pem"), "`absent.pem`"),
            ("jwks_file", json!("absent.json"), "`absent.json`"),
            ("jwks_file", json!(garbage.path()), "not a JWK set"),
            ("jwks_file", json!(unsuited.path()), "check both"),
            ("jwks_url", json!("http://keys.example/"), "use `https`"),
            ("jwks_url", json!("https://u:p@keys.example/"), "drop them"),
        ] {
            let changes = json!({ "algorithms": ["EdDSA"], source: value });
            assert_refused(&changes, &format!("`auth.jwt.{source}`"), remedy);
        }
    }

    #[test]
    fn there_is_exactly_one_key() {
        let rsa = file(&RSA.public_pem);
        let two = json!({ "secret": SECRET, "public_key_file": rsa.path() });
        assert_refused(&two, "`auth.jwt`", "exactly one key");
        assert_refused(&json!({ "algorithms": ["RS256"] }), "`auth.jwt`", "exactly one key");
        assert_refused(&json!({}), "`auth.jwt.secret`", "set the secret");
    }

    #[test]
    fn keys_may_come_over_http_from_loopback_alone() {
        for host in ["localhost", "127.0.0.1:8080", "[::1]:8080"] {
            let url = format!("http://{host}/keys");
            Verifier::new(&config(&json!({ "algorithms": ["RS256"], "jwks_url": url }))).unwrap();
        }
        for host in ["localhost.example", "127.0.0.1.example", "10.0.0.1", "0.0.0.0"] {
            let url = format!("http://{host}/keys");
            Verifier::new(&config(&json!({ "algorithms": ["RS256"], "jwks_url": url }))).unwrap_err();
        }
    }
}
