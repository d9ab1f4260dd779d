//! `Host`, `Forwarded` and `X-Forwarded-*`: what links begin with is a plain URL of ours, and a stranger's word on
//! anything but `Host` counts for nothing. The input: `proxy` or `stranger`, the target of the request, header fields.

#![no_main]

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri, header};
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server::http::base_url::Front;
use release_server_fuzz::{fields, head};
use url::Url;

fuzz_target!(|data: &[u8]| -> Corpus {
    let (lines, _) = head(data);
    let [peer, target, lines @ ..] = &lines[..] else { return Corpus::Reject };
    let (Ok(target), Some(headers)) = (Uri::try_from(*target), fields(lines)) else { return Corpus::Reject };
    let trusted = match *peer {
        b"proxy" => true,
        b"stranger" => false,
        _ => return Corpus::Reject,
    };
    let peer: IpAddr = if trusted { "10.0.0.1" } else { "203.0.113.9" }.parse().expect("an address");
    let local = SocketAddr::from(([127, 0, 0, 1], 8000));
    let front = Front::new(None, &["10.0.0.0/8".parse().expect("a network")], local);

    let base = front.base_url(&target, &headers, peer);
    plain(base.as_str());
    if let Some(base) = front.behind_service(&target, &headers, peer) {
        plain(base.as_str());
        plain(base.service("api").as_str());
    }
    let client = front.client_addr(&headers, peer);
    if !trusted {
        let alone: HeaderMap =
            headers.get_all(header::HOST).iter().map(|host| (header::HOST, host.clone())).collect();
        assert_eq!(front.base_url(&target, &alone, peer), base, "a stranger was believed");
        assert_eq!(client, peer, "a stranger was believed");
        assert!(base.as_str().starts_with("http://"), "{base}");
    }

    let public = Url::parse("https://releases.example/prefix/").expect("a URL");
    let front = Front::new(Some(&public), &["10.0.0.0/8".parse().expect("a network")], local);
    assert_eq!(front.base_url(&target, &headers, peer).as_str(), "https://releases.example/prefix");
    if let Some(base) = front.behind_service(&target, &headers, peer) {
        assert_eq!(base.as_str(), "https://releases.example/prefix");
    }
    Corpus::Keep
});

/// `http(s)://host[:port][/prefix]`, each of them what a browser reads it as.
fn plain(base: &str) {
    let (scheme, rest) = base.split_once("://").expect("a scheme");
    assert!(matches!(scheme, "http" | "https"), "{base}");
    let (authority, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    assert!(!authority.is_empty() && authority.bytes().all(allowed), "{base}");
    assert!(prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte)), "{base}");
    assert!(!prefix.ends_with('/'), "{base}");
    assert!(
        !prefix.split('/').any(|segment| matches!(segment, "." | "..")) && !prefix.contains("//"),
        "{base}"
    );
    if let Ok(url) = Url::parse(base) {
        assert_eq!(url.scheme(), scheme);
        assert!(url.username().is_empty() && url.password().is_none(), "{base}");
        assert!(url.query().is_none() && url.fragment().is_none(), "{base}");
        assert_eq!(url.path(), if prefix.is_empty() { "/" } else { prefix }, "{base}");
    } else {
        // A name like `1.2.3.4.5`, or `xn--` and no more, which the standard of URLs does not take: it leads nowhere.
        assert!(!authority.contains(['[', ']']), "{base}");
    }
}
