//! AWS Signature Version 4, in the `Authorization` header or in the query of a presigned URL.

use std::borrow::Cow;

use aws_lc_rs::{digest, hmac};
use axum::http::StatusCode;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{
    Options,
    bucket::{Call, Refusal},
};

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &UNRESERVED.remove(b'/');
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far a client's clock may be off.
const SKEW: TimeDelta = TimeDelta::minutes(15);
/// For how long a presigned URL may be good, at most.
const WEEK: i64 = 7 * 24 * 3600;

struct Claim<'a> {
    credential: Cow<'a, str>,
    signed_headers: Cow<'a, str>,
    signature: Cow<'a, str>,
    date: &'a str,
    payload: &'a str,
}

/// Refuses what the key's owner did not sign, not so, or not now.
pub(super) fn verify(call: &Call, options: &Options, now: DateTime<Utc>) -> Result<(), Refusal> {
    let claim =
        if call.query.contains_key("X-Amz-Signature") { presigned(call, now)? } else { signed(call, now)? };
    let mut scope = claim.credential.splitn(5, '/');
    let mut part = || scope.next().unwrap_or_default();
    let (access_key, day, region, service) = (part(), part(), part(), part());
    if access_key != options.access_key {
        return Err(Refusal(StatusCode::FORBIDDEN, "InvalidAccessKeyId"));
    }
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let canonical = hex_sha256(canonical(call, &claim).as_bytes());
    let to_sign = format!("{ALGORITHM}\n{}\n{scope}\n{canonical}", claim.date);
    let secret = format!("AWS4{}", options.secret_key);
    let key = [day, region, service, "aws4_request", &to_sign]
        .iter()
        .fold(secret.into_bytes(), |key, message| hmac_sha256(&key, message.as_bytes()));
    if hex::encode(key) != *claim.signature {
        return Err(Refusal(StatusCode::FORBIDDEN, "SignatureDoesNotMatch"));
    }
    Ok(())
}

fn signed(call: &Call, now: DateTime<Utc>) -> Result<Claim<'_>, Refusal> {
    let denied = || Refusal(StatusCode::FORBIDDEN, "AccessDenied");
    let authorization = call.header("authorization").ok_or_else(denied)?;
    let fields = authorization.strip_prefix(ALGORITHM).ok_or_else(denied)?;
    let field = |name: &str| {
        let found = fields.split(',').find_map(|field| field.trim().strip_prefix(name));
        found.map(Cow::Borrowed).ok_or_else(denied)
    };
    let date = call.header("x-amz-date").ok_or_else(denied)?;
    if (now - time(date)?).abs() > SKEW {
        return Err(Refusal(StatusCode::FORBIDDEN, "RequestTimeTooSkewed"));
    }
    Ok(Claim {
        credential: field("Credential=")?,
        signed_headers: field("SignedHeaders=")?,
        signature: field("Signature=")?,
        date,
        payload: call.header("x-amz-content-sha256").ok_or_else(denied)?,
    })
}

fn presigned(call: &Call, now: DateTime<Utc>) -> Result<Claim<'_>, Refusal> {
    let malformed = || Refusal(StatusCode::BAD_REQUEST, "AuthorizationQueryParametersError");
    let field = |name: &str| call.query.get(name).map(String::as_str).ok_or_else(malformed);
    let date = field("X-Amz-Date")?;
    let seconds = field("X-Amz-Expires")?.parse().ok().filter(|&seconds| seconds <= WEEK);
    if now > time(date)? + TimeDelta::seconds(seconds.ok_or_else(malformed)?) {
        return Err(Refusal(StatusCode::FORBIDDEN, "AccessDenied"));
    }
    Ok(Claim {
        credential: field("X-Amz-Credential")?.into(),
        signed_headers: field("X-Amz-SignedHeaders")?.into(),
        signature: field("X-Amz-Signature")?.into(),
        date,
        payload: UNSIGNED,
    })
}

/// The request as both sides write it down, to sign the same bytes.
fn canonical(call: &Call, claim: &Claim<'_>) -> String {
    let path = percent_decode_str(&call.path).decode_utf8_lossy();
    let query: Vec<String> = call
        .query
        .iter()
        .filter(|(name, _)| *name != "X-Amz-Signature")
        .map(|(name, value)| {
            let encode = |text| utf8_percent_encode(text, UNRESERVED);
            format!("{}={}", encode(name), encode(value))
        })
        .collect();
    let headers: Vec<String> = claim
        .signed_headers
        .split(';')
        .map(|name| {
            let values: Vec<String> = call.headers.get_all(name).iter().map(folded).collect();
            format!("{name}:{}\n", values.join(","))
        })
        .collect();
    format!(
        "{}\n{}\n{}\n{}\n{}\n{}",
        call.method,
        utf8_percent_encode(&path, PATH),
        query.join("&"),
        headers.concat(),
        claim.signed_headers,
        claim.payload
    )
}

fn folded(value: &axum::http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

fn time(date: &str) -> Result<DateTime<Utc>, Refusal> {
    NaiveDateTime::parse_from_str(date, "%Y%m%dT%H%M%SZ")
        .map(|time| time.and_utc())
        .map_err(|_| Refusal(StatusCode::FORBIDDEN, "AccessDenied"))
}

fn hex_sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}
