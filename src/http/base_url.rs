//! The address a client reached us at, which links are built from, and the address of that client.
//!
//! Promises: what comes out is `http(s)://host[:port][/prefix]` in characters that need no escaping, whatever comes
//! in; only a trusted proxy is believed about anything but `Host`; a value that does not parse counts as absent.
//! Leaves to the proxy: stripping the prefix from the path before the request gets here.
//!
//! | source | believed |
//! |---|---|
//! | `public_url` | always, and then alone |
//! | `X-Forwarded-{For,Host,Proto,Port,Prefix}` | from a trusted proxy |
//! | `Forwarded` (RFC 7239) | from a trusted proxy, if none of the former is there |
//! | `:authority`, `Host` | when nothing above names a host; the scheme is then `http` |
//! | the listening address | when all else fails |
//!
//! `X-Forwarded-*` goes first because the proxies that set it commonly hand through a client's own `Forwarded`.
//! Lists are read from the right, as far as trusted proxies wrote them; what lies further left is the client's word.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use aide::OperationInput;
use axum::extract::{ConnectInfo, FromRef, FromRequestParts};
use http::{HeaderMap, Uri, header, request::Parts};
use ipnet::IpNet;
use url::Url;

use crate::config::Config;

/// A host or a prefix longer than this many bytes is not believed (RFC 1035 allows a name 255).
const LONGEST: usize = 255;

/// What links begin with: `http(s)://host[:port][/prefix]`, with no slash at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl(Arc<str>);

impl BaseUrl {
    /// The text, with no slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same with `service.` before the host.
    #[must_use]
    pub fn service(&self, service: &str) -> Self {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("http", &self.0));
        Self(format!("{scheme}://{service}.{rest}").into())
    }

    /// The link to `path`, which is already percent-encoded.
    pub fn join(&self, path: &str) -> String {
        format!("{self}/{}", path.trim_start_matches('/'))
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Takes the peer from [`ConnectInfo`]; without one, nobody.
impl<S: Send + Sync> FromRequestParts<S> for BaseUrl
where
    Arc<Front>: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let front = Arc::<Front>::from_ref(state);
        Ok(front.base_url(&parts.uri, &parts.headers, peer(&parts.extensions)))
    }
}

impl OperationInput for BaseUrl {}

/// The address at the other end of the connection; the unspecified one where there is no connection, as in tests.
pub fn peer(extensions: &http::Extensions) -> IpAddr {
    extensions
        .get()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo::<SocketAddr>(peer)| peer.ip().to_canonical())
}

/// What stands between this server and its clients.
#[derive(Debug, Clone)]
pub struct Front {
    public: Option<BaseUrl>,
    trusted: Vec<IpNet>,
    local: BaseUrl,
    /// What clients speak who come without a proxy.
    scheme: &'static str,
}

impl Front {
    /// `local` is the address listened at.
    pub fn new(public_url: Option<&Url>, trusted_proxies: &[IpNet], local: SocketAddr) -> Self {
        let local = if local.ip().is_unspecified() {
            format!("http://localhost:{}", local.port())
        } else {
            format!("http://{local}")
        };
        Self {
            public: public_url.map(public),
            trusted: trusted_proxies.to_vec(),
            local: BaseUrl(local.into()),
            scheme: "http",
        }
    }

    /// As the configuration says, TLS included.
    pub fn of(config: &Config, local: SocketAddr) -> Self {
        let mut front = Self::new(config.public_url.as_ref(), &config.server.trusted_proxies, local);
        if config.tls.is_on() {
            front.scheme = "https";
            front.local = BaseUrl(front.local.0.replacen("http:", "https:", 1).into());
        }
        front
    }

    /// What the links in the answer to this request begin with.
    pub fn base_url(&self, uri: &Uri, headers: &HeaderMap, peer: IpAddr) -> BaseUrl {
        if let Some(public) = &self.public {
            return public.clone();
        }
        self.requested(uri, headers, peer).unwrap_or_else(|| self.local.clone())
    }

    /// The server's own address, if the request went to the host `api.` or `uploads.` of it, as GitHub's do.
    pub fn behind_service(&self, uri: &Uri, headers: &HeaderMap, peer: IpAddr) -> Option<BaseUrl> {
        let requested = self.requested(uri, headers, peer)?;
        let (scheme, rest) = requested.as_str().split_once("://")?;
        let rest = rest.strip_prefix("api.").or_else(|| rest.strip_prefix("uploads."))?;
        // `api.` alone is the service of nobody.
        Authority::parse(rest.split('/').next()?)?;
        let host = |url: &str| url.split_once("://").map(|(_, rest)| rest.to_owned());
        match &self.public {
            Some(public) => (host(public.as_str()).as_deref() == Some(rest)).then(|| public.clone()),
            None => Some(BaseUrl(format!("{scheme}://{rest}").into())),
        }
    }

    /// The address that the client asked for; `None` if there is none to believe.
    fn requested(&self, uri: &Uri, headers: &HeaderMap, peer: IpAddr) -> Option<BaseUrl> {
        let hearsay = self.hearsay(headers, peer);
        let authority = hearsay
            .host
            .and_then(Authority::parse)
            .or_else(|| Authority::parse(uri.authority()?.as_str()))
            .or_else(|| Authority::parse(only(headers, header::HOST.as_str())?))?;

        let scheme = hearsay
            .scheme
            .filter(|scheme| ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)));
        let (scheme, default_port) = if scheme.unwrap_or(self.scheme).eq_ignore_ascii_case("https") {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let port =
            authority.port.or_else(|| hearsay.port.and_then(port)).filter(|port| *port != default_port);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let prefix = hearsay.prefix.and_then(prefix).unwrap_or_default();
        Some(BaseUrl(format!("{scheme}://{}{port}{prefix}", authority.host).into()))
    }

    /// The address of the client: the peer, or whom the trusted proxies in front of us took the request from.
    pub fn client_addr(&self, headers: &HeaderMap, peer: IpAddr) -> IpAddr {
        self.hearsay(headers, peer).client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address.to_canonical()))
    }

    fn hearsay<'a>(&self, headers: &'a HeaderMap, peer: IpAddr) -> Hearsay<'a> {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            Hearsay::none(peer)
        } else if X_FORWARDED.iter().any(|name| headers.contains_key(*name)) {
            self.x_forwarded(headers, peer)
        } else {
            self.forwarded(headers, peer)
        }
    }

    fn x_forwarded<'a>(&self, headers: &'a HeaderMap, peer: IpAddr) -> Hearsay<'a> {
        let mut client = peer;
        let mut hops = 1;
        for address in list(headers, "x-forwarded-for").into_iter().rev().map_while(address) {
            client = address;
            if !self.trusts(address) {
                break;
            }
            hops += 1;
        }
        // A proxy either replaces these or adds to them: of a list, the last `hops` values are from trusted ones.
        let said = |name| {
            let values = list(headers, name);
            values.get(values.len().saturating_sub(hops)).copied()
        };
        Hearsay {
            client,
            scheme: said("x-forwarded-proto"),
            host: said("x-forwarded-host"),
            port: said("x-forwarded-port"),
            prefix: said("x-forwarded-prefix"),
        }
    }

    fn forwarded<'a>(&self, headers: &'a HeaderMap, peer: IpAddr) -> Hearsay<'a> {
        let mut hearsay = Hearsay::none(peer);
        let lines = headers.get_all(header::FORWARDED).iter().rev();
        let elements = lines.flat_map(|line| rfc7239::parse(line.to_str().unwrap_or_default()).rev());
        for element in elements.map_while(Result::ok) {
            hearsay.scheme = element.protocol.map(unquote).or(hearsay.scheme);
            hearsay.host = element.host.map(unquote).or(hearsay.host);
            // `unknown`, an obfuscated name or none: whoever wrote the next element cannot be told.
            let Some(address) = element.forwarded_for.as_ref().and_then(|node| node.ip()) else {
                break;
            };
            hearsay.client = address.to_canonical();
            if !self.trusts(hearsay.client) {
                break;
            }
        }
        hearsay
    }
}

/// What trusted proxies say of a request; its texts are not checked yet.
struct Hearsay<'a> {
    client: IpAddr,
    scheme: Option<&'a str>,
    host: Option<&'a str>,
    port: Option<&'a str>,
    prefix: Option<&'a str>,
}

impl Hearsay<'_> {
    fn none(client: IpAddr) -> Self {
        Self { client, scheme: None, host: None, port: None, prefix: None }
    }
}

const X_FORWARDED: [&str; 5] =
    ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port", "x-forwarded-prefix"];

/// The values of a list header, over all its lines; none if a line is not plain ASCII.
fn list<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    let lines: Result<Vec<_>, _> = headers.get_all(name).iter().map(|line| line.to_str()).collect();
    lines.unwrap_or_default().into_iter().flat_map(|line| line.split(',')).map(str::trim).collect()
}

/// The value of a header that occurs once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())?.to_str().ok()
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// An address as it stands in `X-Forwarded-For`: some proxies add the port, or brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(bare).map(|address: IpAddr| address.to_canonical())
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?.filter(|port| *port != 0)
}

/// `/a/b` without a slash at the end, if every segment is made of RFC 3986's unreserved characters.
fn prefix(text: &str) -> Option<&str> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let plain = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(unreserved);
    (text.len() <= LONGEST && text.strip_prefix('/')?.split('/').all(plain)).then_some(text)
}

fn public(url: &Url) -> BaseUrl {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    BaseUrl(url.as_str().trim_end_matches('/').into())
}

struct Authority {
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// `host[:port]`: a name of letters, digits, `-`, `.` and `_`, an IPv4 address, or an IPv6 address in brackets.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let (host, port_text) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let host = if let Some(literal) = host.strip_prefix('[') {
            format!("[{}]", literal.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?)
        } else {
            let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            let sound = host.bytes().all(name) && host.bytes().next()?.is_ascii_alphanumeric();
            sound.then(|| host.to_ascii_lowercase())?
        };
        let port = match port_text {
            Some(text) => Some(port(text)?),
            None => None,
        };
        Some(Self { host, port })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const PROXY: &str = "10.0.0.1";
    const STRANGER: &str = "203.0.113.9";

    fn front() -> Front {
        Front::new(
            None,
            &["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            "127.0.0.1:8000".parse().unwrap(),
        )
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    #[track_caller]
    fn check(peer: &str, lines: &[(&str, &str)], expected: &str) {
        let url = front().base_url(&Uri::from_static("/latest"), &headers(lines), peer.parse().unwrap());
        assert_eq!(url.as_str(), expected, "{peer} {lines:?}");
    }

    #[test]
    fn a_host_is_taken_if_it_is_one() {
        let table = [
            ("packages.example", "http://packages.example"),
            ("Packages.Example:8080", "http://packages.example:8080"),
            ("packages.example:80", "http://packages.example"),
            ("under_score.internal", "http://under_score.internal"),
            ("192.0.2.7:9000", "http://192.0.2.7:9000"),
            ("[2001:DB8::1]:8000", "http://[2001:db8::1]:8000"),
            ("[::1]", "http://[::1]"),
        ];
        for (host, expected) in table {
            check(STRANGER, &[("host", host)], expected);
        }
    }

    #[test]
    fn a_hostile_host_falls_back_to_the_local_address() {
        let long = "a".repeat(256);
        let table = [
            "",
            " ",
            r#"evil"><script>"#,
            "user@evil.example",
            "user:password@evil.example",
            "evil.example/path",
            "evil.example?x",
            "evil.example#x",
            "evil.example\\@good.example",
            "evil.example%0d%0aset-cookie:x",
            "evil.example\tx",
            "a, b",
            "evil.example:",
            "evil.example:0",
            "evil.example:+80",
            "evil.example:65536",
            "evil.example:80:80",
            "2001:db8::1",
            "[2001:db8::1",
            "[fe80::1%25eth0]",
            "[::1]x",
            ".example",
            "-evil",
            "späte.example",
            &long,
        ];
        for host in table {
            check(STRANGER, &[("host", host)], "http://127.0.0.1:8000");
        }
        check(STRANGER, &[], "http://127.0.0.1:8000");
        check(STRANGER, &[("host", "a.example"), ("host", "b.example")], "http://127.0.0.1:8000");
    }

    #[test]
    fn the_authority_of_the_request_goes_before_host() {
        let headers = headers(&[("host", "other.example")]);
        let peer = STRANGER.parse().unwrap();
        let url = front().base_url(&Uri::from_static("http://a.example:81/latest"), &headers, peer);
        assert_eq!(url.as_str(), "http://a.example:81");
        let url = front().base_url(&Uri::from_static("http://user@a.example/latest"), &headers, peer);
        assert_eq!(url.as_str(), "http://other.example");
    }

    #[test]
    fn an_untrusted_peer_is_believed_about_host_alone() {
        check(
            STRANGER,
            &[
                ("host", "packages.example"),
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-prefix", "/evil"),
                ("forwarded", "host=evil.example;proto=https"),
            ],
            "http://packages.example",
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed() {
        let host = ("host", "inner:8000");
        let named = ("x-forwarded-host", "packages.example");
        let https = ("x-forwarded-proto", "https");
        check(PROXY, &[host, named], "http://packages.example");
        check(PROXY, &[host, named, https], "https://packages.example");
        check(PROXY, &[host, named, https, ("x-forwarded-port", "443")], "https://packages.example");
        check(PROXY, &[host, named, https, ("x-forwarded-port", "8443")], "https://packages.example:8443");
        check(
            PROXY,
            &[host, ("x-forwarded-host", "packages.example:444"), https],
            "https://packages.example:444",
        );
        check(PROXY, &[host, named, ("x-forwarded-prefix", "/a/b/")], "http://packages.example/a/b");
        check(PROXY, &[("host", "packages.example"), https], "https://packages.example");
        check("::ffff:10.0.0.1", &[host, named], "http://packages.example");
        check("fd00::7", &[host, named], "http://packages.example");
    }

    #[test]
    fn a_bad_word_of_a_trusted_proxy_is_left_out() {
        let host = ("host", "packages.example");
        check(PROXY, &[host, ("x-forwarded-host", r#"evil"><script>"#)], "http://packages.example");
        check(PROXY, &[host, ("x-forwarded-host", "")], "http://packages.example");
        check(PROXY, &[host, ("x-forwarded-proto", "javascript")], "http://packages.example");
        check(PROXY, &[host, ("x-forwarded-port", "99999")], "http://packages.example");
        for prefix in ["/../x", "/.", "//evil.example", "x", "/a b", "/a\"b", "/a%2fb", "/", "", "/a//b"] {
            check(PROXY, &[host, ("x-forwarded-prefix", prefix)], "http://packages.example");
        }
    }

    #[test]
    fn lists_are_read_from_the_right_as_far_as_trusted_proxies_wrote_them() {
        let hosts = ("x-forwarded-host", "a.example, b.example");
        check(PROXY, &[hosts], "http://b.example");
        check(PROXY, &[("x-forwarded-for", "203.0.113.9"), hosts], "http://b.example");
        check(PROXY, &[("x-forwarded-for", "203.0.113.9, 10.0.0.2"), hosts], "http://a.example");
        check(PROXY, &[("x-forwarded-for", "10.0.0.2, 203.0.113.9"), hosts], "http://b.example");
        check(
            PROXY,
            &[("x-forwarded-for", "203.0.113.9, 10.0.0.2"), ("x-forwarded-host", "only.example")],
            "http://only.example",
        );
        check(
            PROXY,
            &[("x-forwarded-host", "a.example"), ("x-forwarded-host", "b.example")],
            "http://b.example",
        );
    }

    #[test]
    fn forwarded_is_read() {
        let host = ("host", "inner:8000");
        let table = [
            ("for=203.0.113.9;host=packages.example;proto=https", "https://packages.example"),
            (
                r#"For="[2001:db8::9]:4711";Host="packages.example:8443";Proto=https"#,
                "https://packages.example:8443",
            ),
            ("for=_hidden;host=packages.example", "http://packages.example"),
            ("for=unknown;proto=https;host=packages.example", "https://packages.example"),
            ("for=10.9.9.9;host=evil.example, for=_hidden;host=packages.example", "http://packages.example"),
            ("host=evil.example, for=203.0.113.9;host=packages.example", "http://packages.example"),
            (
                "for=203.0.113.9;host=packages.example;proto=https, for=10.0.0.2;host=inner;proto=http",
                "https://packages.example",
            ),
            (r#"for=203.0.113.9;host="evil.example/"><script>""#, "http://inner:8000"),
            (r#"for="10.0.0.2"#, "http://inner:8000"),
            ("nonsense", "http://inner:8000"),
            ("", "http://inner:8000"),
        ];
        for (forwarded, expected) in table {
            check(PROXY, &[host, ("forwarded", forwarded)], expected);
        }
    }

    #[test]
    fn a_forwarded_handed_through_by_another_kind_of_proxy_is_ignored() {
        check(
            PROXY,
            &[
                ("host", "packages.example"),
                ("forwarded", "for=203.0.113.9;host=evil.example"),
                ("x-forwarded-for", "203.0.113.9"),
            ],
            "http://packages.example",
        );
    }

    #[test]
    fn a_public_url_is_the_last_word() {
        let public = "https://packages.example/releases/".parse().unwrap();
        let front =
            Front::new(Some(&public), &["0.0.0.0/0".parse().unwrap()], "0.0.0.0:8000".parse().unwrap());
        let headers = headers(&[("host", "evil.example"), ("x-forwarded-host", "evil.example")]);
        let url = front.base_url(&Uri::from_static("/latest"), &headers, PROXY.parse().unwrap());
        assert_eq!(url.as_str(), "https://packages.example/releases");
        assert_eq!(url.join("/assets/a.zip"), "https://packages.example/releases/assets/a.zip");
        assert_eq!(url.join("assets/a.zip"), "https://packages.example/releases/assets/a.zip");
    }

    #[test]
    fn an_unspecified_address_is_no_link() {
        let front = Front::new(None, &[], "[::]:8000".parse().unwrap());
        let url = front.base_url(&Uri::from_static("/"), &HeaderMap::new(), STRANGER.parse().unwrap());
        assert_eq!(url.as_str(), "http://localhost:8000");
    }

    #[test]
    fn the_client_is_the_nearest_address_that_is_no_proxy() {
        type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);
        let table: &[Case] = &[
            (STRANGER, &[("x-forwarded-for", "192.0.2.1")], STRANGER),
            (PROXY, &[], PROXY),
            (PROXY, &[("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            (PROXY, &[("x-forwarded-for", "198.51.100.1, 192.0.2.1, 10.0.0.2")], "192.0.2.1"),
            (PROXY, &[("x-forwarded-for", "192.0.2.1:4711")], "192.0.2.1"),
            (PROXY, &[("x-forwarded-for", "[2001:db8::1]:4711")], "2001:db8::1"),
            (PROXY, &[("x-forwarded-for", "[2001:db8::1]")], "2001:db8::1"),
            (PROXY, &[("x-forwarded-for", "::ffff:192.0.2.1")], "192.0.2.1"),
            (PROXY, &[("x-forwarded-for", "192.0.2.1, nonsense")], PROXY),
            (PROXY, &[("forwarded", "for=198.51.100.1, for=192.0.2.1")], "192.0.2.1"),
            (PROXY, &[("forwarded", "for=198.51.100.1"), ("forwarded", "for=192.0.2.1")], "192.0.2.1"),
            (PROXY, &[("forwarded", "for=198.51.100.1, for=_hidden")], PROXY),
        ];
        for (peer, lines, expected) in table {
            let client = front().client_addr(&headers(lines), peer.parse().unwrap());
            assert_eq!(client.to_string(), *expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_service_is_the_service_of_somebody() {
        let service = |host: &str| {
            let lines = headers(&[("host", host)]);
            front().behind_service(&Uri::from_static("/"), &lines, STRANGER.parse().unwrap())
        };
        assert_eq!(service("api.h.example:81").unwrap().as_str(), "http://h.example:81");
        assert_eq!(service("uploads.h.example").unwrap().as_str(), "http://h.example");
        for host in ["h.example", "api.", "api.:81", "api..example", "uploads.-x", "api"] {
            assert_eq!(service(host), None, "{host}");
        }
    }
}
