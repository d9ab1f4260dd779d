//! `Authorization`: whatever is sent, nobody gets in but by the token, or by a JSON Web Token that is signed with the
//! key and says what it must. The input is the value of the field; or, after a line `JWT right`, `JWT wrong` or
//! `JWT none`, a line with the header and one with the claims of a token that is then signed so.

#![no_main]

use std::sync::OnceLock;

use aws_lc_rs::hmac;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use http::HeaderValue;
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server::auth::Authenticator;
use release_server_fuzz::{TOKEN, config};
use serde_json::{Value, json};

const SECRET: &str = "a-secret-of-at-least-thirty-two-bytes";
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "releases";

fuzz_target!(|data: &[u8]| -> Corpus {
    let lines: Vec<&[u8]> = data.splitn(3, |byte| *byte == b'\n').collect();
    let value = match lines[..] {
        [kind, header, claims] if kind.starts_with(b"JWT ") => match signed(kind, header, claims) {
            Some(token) => format!("Bearer {token}").into_bytes(),
            None => return Corpus::Reject,
        },
        _ => data.to_vec(),
    };
    let Ok(header) = HeaderValue::from_bytes(&value) else { return Corpus::Reject };
    let caller = runtime().block_on(authenticator().authenticate(Some(&header)));
    if let Ok(caller) = caller {
        assert_ne!(caller.name, "anonymous");
        assert!(may_enter(&value), "{:?} was let in as {caller:?}", String::from_utf8_lossy(&value));
    } else {
        assert_ne!(value, format!("Bearer {TOKEN}").as_bytes(), "who has the token was refused");
    }
    Corpus::Keep
});

fn authenticator() -> &'static Authenticator {
    static AUTHENTICATOR: OnceLock<Authenticator> = OnceLock::new();
    AUTHENTICATOR.get_or_init(|| {
        let mut config = config(&[]);
        let jwt = json!({
            "issuer": ISSUER, "audience": [AUDIENCE], "algorithms": ["HS256"], "secret": SECRET,
            "rules": [{"claims": {"iss": "*"}, "scopes": ["write"]}],
        });
        config.auth.jwt = Some(serde_json::from_value(jwt).expect("the settings are good"));
        Authenticator::new(config.auth_token.as_ref(), &config.auth).expect("the settings are good")
    })
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    })
}

fn signature(secret: &str, text: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), text.as_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(tag)
}

fn signed(kind: &[u8], header: &[u8], claims: &[u8]) -> Option<String> {
    let text = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
    let signature = match kind {
        b"JWT right" => signature(SECRET, &text),
        b"JWT wrong" => signature("another-secret-of-the-same-length!!!", &text),
        b"JWT none" => String::new(),
        _ => return None,
    };
    Some(format!("{text}.{signature}"))
}

/// Whether this is the token, or a JSON Web Token that is good, in a plain reading.
fn may_enter(value: &[u8]) -> bool {
    let text = value.trim_ascii();
    let space = text.iter().position(|byte| *byte == b' ').unwrap_or(text.len());
    let credentials = text[space..].trim_ascii();
    let decoded = BASE64_STANDARD.decode(credentials).unwrap_or_default();
    let password = decoded.splitn(2, |byte| *byte == b':').nth(1).unwrap_or_default();
    [credentials, password].into_iter().any(|token| token == TOKEN.as_bytes() || is_good(token))
}

fn is_good(token: &[u8]) -> bool {
    let Ok(token) = std::str::from_utf8(token) else { return false };
    let Some((text, sent)) = token.rsplit_once('.') else { return false };
    let Some((header, claims)) = text.split_once('.') else { return false };
    let json = |part: &str| -> Option<Value> {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let (Some(header), Some(claims)) = (json(header), json(claims)) else { return false };
    let one_of = |value: &Value, wanted: &str| match value {
        Value::Array(several) => several.iter().any(|value| value == wanted),
        one => one == wanted,
    };
    // Long before and long after now: nothing here depends on the clock.
    let time = |name: &str| claims[name].as_f64();
    signature(SECRET, text) == sent
        && header["alg"] == "HS256"
        && header.get("crit").is_none()
        && one_of(&claims["iss"], ISSUER)
        && one_of(&claims["aud"], AUDIENCE)
        && time("exp").is_some_and(|exp| exp > 1.7e9)
        && time("nbf").is_none_or(|nbf| nbf < 1e11)
}
