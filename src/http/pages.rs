//! The human face of the server: the list of packages, releases and their notes, and the API's documentation.
//!
//! Promises:
//! - Everything that comes from outside is escaped, and a name is isolated from the text around it.
//! - Nothing inline, nothing from another host: [`CSP`] allows scripts and styles of our own origin alone.
//! - Links to ourselves are relative, so the pages work behind any path prefix.
//! - The pages work without JavaScript, which only adds the filter and the copy buttons.
//!
//! Left to others: which packages there are and in what order, content negotiation, and the routes. The files must be
//! served where the pages look for them: `/static/page.css`, `/static/page.js`, `/docs`, `/static/docs.css`,
//! `/static/docs.js`, and the document itself at `/openapi.json`.

mod markdown;
mod releases;

use std::{borrow::Cow, fmt, sync::LazyLock};

use aide::swagger::Swagger;
use askama::Template;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use bytesize::ByteSize;
use chrono::{DateTime, SecondsFormat, Utc};
use headers::{ETag, HeaderMapExt, IfNoneMatch};
use http::{
    HeaderMap, HeaderValue, StatusCode, Uri,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use sha2::{Digest, Sha256};

pub(super) use markdown::{in_turn, markdown};
pub(super) use releases::{Asset as AssetRow, Release, release_page, releases_page};

/// What our pages may do. `data:` is for the icons in the style sheets, `connect-src` for the API's documentation, which
/// fetches `openapi.json` and can try the operations out.
///
/// Swagger UI is the one of aide's three viewers that lives with this: Redoc needs `'unsafe-inline'` styles and loads
/// its logo from another host, Scalar is the largest.
const CSP: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// A crate on a blue ground: the icon of both pages, without a request.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E\
    %3Crect width='32' height='32' rx='8' fill='%230b57c4'/%3E\
    %3Cpath d='M16 6.5l8 4.4v10.2l-8 4.4-8-4.4V10.9zM8.4 11.1 16 15.3l7.6-4.2M16 15.3v9.8' \
    fill='none' stroke='%23fff' stroke-width='2' stroke-linejoin='round'/%3E%3C/svg%3E";

/// A package as the page shows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    /// The file's name, as it is.
    pub(super) name: &'a str,
    /// Bytes.
    pub(super) size: u64,
    /// When it was published.
    pub(super) created_at: DateTime<Utc>,
    /// 64 hex digits; `None` while unknown.
    pub(super) sha256: Option<&'a str>,
    /// Where it is downloaded: absolute and percent-encoded.
    pub(super) url: &'a str,
}

impl Row<'_> {
    /// The name for the eye: no override lets a `gpj.exe` pose as an `exe.jpg`.
    fn shown_name(&self) -> String {
        self.name.replace(misleading, "\u{fffd}")
    }

    fn size(&self) -> Size {
        Size(self.size)
    }

    fn instant(&self) -> String {
        self.created_at.to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    fn minute(&self) -> impl fmt::Display {
        self.created_at.format("%Y-%m-%d %H:%M")
    }

    /// A command for a POSIX shell that stores the package under its own name.
    ///
    /// `-O` takes the name from the URL without decoding it, so a name that had to be encoded is spelled out. A name with
    /// characters that mislead is not: pasted into a terminal, it could do or look like something else.
    fn command(&self) -> String {
        let url = quoted(self.url);
        // Otherwise curl reads brackets and braces as a set of URLs.
        let literal = if self.url.contains(['[', ']', '{', '}']) { "g" } else { "" };
        if self.url.rsplit('/').next() == Some(self.name) || self.name.chars().any(misleading) {
            return format!("curl -{literal}fLO {url}");
        }
        // `-` would be standard output.
        let here = if self.name.starts_with('-') { "./" } else { "" };
        format!("curl -{literal}fLo {} {url}", quoted(&format!("{here}{}", self.name)))
    }
}

/// A number of bytes: shown in binary units, exact on demand.
#[derive(Clone, Copy)]
struct Size(u64);

impl Size {
    fn exact(self) -> String {
        counted(self.0, "byte")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize(self.0).display().iec().fmt(f)
    }
}

/// What `layout.html` puts around every page.
#[derive(Clone, Copy)]
struct Frame<'a> {
    /// Leads to the server's own root: relative, and empty or ending in a slash.
    root: &'a str,
    /// `page` or `docs`: the style sheet and the script below `static/`.
    files: &'static str,
    css: &'static str,
    js: &'static str,
    icon: &'static str,
}

impl<'a> Frame<'a> {
    fn page(root: &'a str) -> Self {
        Self { root, files: "page", css: &PAGE_CSS.version, js: &PAGE_JS.version, icon: ICON }
    }

    fn docs() -> Self {
        Self { root: "", files: "docs", css: &DOCS_CSS.version, js: &DOCS_JS.version, icon: ICON }
    }
}

#[derive(Template)]
#[template(path = "packages.html", config = "src/http/pages/askama.toml")]
struct PackagesPage<'a> {
    frame: Frame<'static>,
    rows: &'a [Row<'a>],
    count: String,
    total: Size,
    upload: String,
}

#[derive(Template)]
#[template(path = "docs.html", config = "src/http/pages/askama.toml")]
struct DocsPage {
    frame: Frame<'static>,
}

/// The list of packages as HTML; the rows newest first. `base_url` is where the server is reached, with its path prefix.
pub(super) fn packages_page(rows: &[Row<'_>], base_url: &str) -> Result<String, askama::Error> {
    // To a URL that ends in a slash, curl appends the file's name.
    let assets = format!("{}/assets/", base_url.trim_end_matches('/'));
    PackagesPage {
        frame: Frame::page(""),
        rows,
        count: counted(rows.len() as u64, "package"),
        total: Size(rows.iter().fold(0, |sum, row| sum.saturating_add(row.size))),
        upload: format!(
            "curl --fail-with-body -T app-1.0.0.tar.gz -H \"Authorization: Bearer $AUTH_TOKEN\" {}",
            quoted(&assets)
        ),
    }
    .render()
}

/// Adds the headers that keep a page harmless.
pub(super) fn harmless(page: Response) -> Response {
    (PAGE_HEADERS, page).into_response()
}

/// The content type of a page.
pub(super) const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");
const CSS: HeaderValue = HeaderValue::from_static("text/css; charset=utf-8");
const JS: HeaderValue = HeaderValue::from_static("text/javascript; charset=utf-8");

const PAGE_HEADERS: [(http::HeaderName, HeaderValue); 3] = [
    (CONTENT_SECURITY_POLICY, CSP),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
];

/// The style sheet of the list: `GET /static/page.css`.
pub(super) async fn page_css(uri: Uri, headers: HeaderMap) -> Response {
    PAGE_CSS.answer(&uri, &headers)
}

/// The script of the list: `GET /static/page.js`.
pub(super) async fn page_js(uri: Uri, headers: HeaderMap) -> Response {
    PAGE_JS.answer(&uri, &headers)
}

/// A page that renders `openapi.json`: `GET /docs`.
pub(super) async fn docs(uri: Uri, headers: HeaderMap) -> Response {
    DOCS.answer(&uri, &headers)
}

/// The style sheet of the documentation: `GET /static/docs.css`.
pub(super) async fn docs_css(uri: Uri, headers: HeaderMap) -> Response {
    DOCS_CSS.answer(&uri, &headers)
}

/// The script of the documentation: `GET /static/docs.js`.
pub(super) async fn docs_js(uri: Uri, headers: HeaderMap) -> Response {
    DOCS_JS.answer(&uri, &headers)
}

static PAGE_CSS: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(CSS, concat!(include_str!("pages/base.css"), include_str!("pages/page.css")))
});
static PAGE_JS: LazyLock<Asset> = LazyLock::new(|| Asset::new(JS, include_str!("pages/page.js")));

static DOCS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(HTML, DocsPage { frame: Frame::docs() }.render().unwrap_or_default()));
static DOCS_CSS: LazyLock<Asset> = LazyLock::new(|| {
    let ours = concat!(include_str!("pages/base.css"), include_str!("pages/docs.css"));
    Asset::new(CSS, swagger_ui("style") + ours)
});
static DOCS_JS: LazyLock<Asset> =
    LazyLock::new(|| Asset::new(JS, swagger_ui("script") + include_str!("pages/docs.js")));

/// The first element called `tag` of aide's own Swagger UI page. aide offers the files only inside that page, and inline
/// they would need `'unsafe-inline'`.
fn swagger_ui(tag: &str) -> String {
    let page = Swagger::new("").html();
    let start = page.split_once(&format!("<{tag}>")).map(|(_, rest)| rest);
    let inner = start.and_then(|rest| rest.split_once(&format!("</{tag}>"))).map(|(inner, _)| inner);
    format!("{}\n", inner.unwrap_or_default())
}

/// A file that is part of the program.
struct Asset {
    content_type: HeaderValue,
    body: Bytes,
    /// Changes with the body: 16 hex digits.
    version: String,
}

impl Asset {
    fn new(content_type: HeaderValue, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let version = hex::encode(&Sha256::digest(&body)[..8]);
        Self { content_type, body, version }
    }

    /// Only the address that names this very version is kept for ever: during an upgrade another replica may be asked for
    /// the version of its neighbour.
    fn answer(&self, uri: &Uri, headers: &HeaderMap) -> Response {
        let named = uri.query().and_then(|query| query.strip_prefix("v=")) == Some(&self.version);
        let cache = if named { "public, max-age=31536000, immutable" } else { "no-cache" };
        let mut response = PAGE_HEADERS.into_response();
        let answer = response.headers_mut();
        answer.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
        if let Ok(etag) = format!("\"{}\"", self.version).parse::<ETag>() {
            answer.typed_insert(etag.clone());
            if headers.typed_get::<IfNoneMatch>().is_some_and(|known| !known.precondition_passes(&etag)) {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
                return response;
            }
        }
        answer.insert(CONTENT_TYPE, self.content_type.clone());
        *response.body_mut() = self.body.clone().into();
        response
    }
}

/// `text` as one word of a POSIX shell. What no shell can carry, a NUL, becomes the empty word.
fn quoted(text: &str) -> Cow<'_, str> {
    shlex::try_quote(text).unwrap_or(Cow::Borrowed("''"))
}

/// Control characters, line separators and Unicode's `Bidi_Control`: they show nothing themselves and change what is
/// shown or done around them.
fn misleading(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `1,234 packages`, `1 package`.
fn counted(n: u64, noun: &str) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    format!("{text} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA256: &str = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7";

    fn row<'a>(name: &'a str, url: &'a str) -> Row<'a> {
        let created_at = DateTime::from_timestamp(1_757_685_791, 123_000_000).unwrap();
        Row { name, size: 86_532, created_at, sha256: Some(SHA256), url }
    }

    fn page(rows: &[Row<'_>]) -> String {
        packages_page(rows, "https://host.example/prefix").unwrap()
    }

    /// What a shell makes of a command.
    fn words(command: &str) -> Vec<String> {
        shlex::split(command).unwrap()
    }

    #[test]
    fn a_row_shows_all_there_is_to_know() {
        let page = page(&[row("app-1.0.0.zip", "https://host.example/prefix/assets/app-1.0.0.zip")]);
        for part in [
            r#"<a href="https://host.example/prefix/assets/app-1.0.0.zip"><bdi>app-1.0.0.zip</bdi></a>"#,
            r#"title="86,532 bytes">84.5 KiB<"#,
            r#"<time datetime="2025-09-12T14:03:11.123Z" title="2025-09-12T14:03:11.123Z">2025-09-12 14:03</time>"#,
            SHA256,
            "curl -fLO https://host.example/prefix/assets/app-1.0.0.zip<",
            "1 package<",
        ] {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
    }

    #[test]
    fn only_the_newest_is_marked_latest() {
        let page = page(&[row("b.zip", "http://h/assets/b.zip"), row("a.zip", "http://h/assets/a.zip")]);
        let (newest, older) = page.split_once("<bdi>a.zip").unwrap();
        assert!(newest.contains(">latest</strong>") && !older.contains(">latest</strong>"), "{page}");
    }

    #[test]
    fn a_hostile_name_is_only_text() {
        let name = "<script>alert(1)</script>\"'&\u{202e}gpj.exe";
        let page = page(&[row(name, "https://h/assets/x\"><script>")]);
        let after_head = page.split_once("<body>").unwrap().1;
        assert!(!after_head.contains("<script"), "{after_head}");
        assert!(!after_head.contains("x\""), "{after_head}");
        assert!(
            after_head.contains("<bdi>&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#38;"),
            "{after_head}"
        );
    }

    #[test]
    fn an_unknown_digest_is_said_to_be_on_its_way() {
        let page = page(&[Row { sha256: None, ..row("a", "http://h/assets/a") }]);
        assert!(page.contains("being computed"), "{page}");
    }

    #[test]
    fn links_to_ourselves_hold_behind_a_path_prefix() {
        let docs = String::from_utf8(DOCS.body.to_vec()).unwrap();
        for page in [page(&[]), page(&[row("a", "https://host.example/prefix/assets/a")]), docs] {
            for link in page.split(['"', '\'']).skip(1).step_by(2) {
                assert!(!link.starts_with('/'), "{link} leaves the prefix in\n{page}");
            }
            assert!(page.contains("=\"static/") && page.contains("href=\"packages\""), "{page}");
        }
    }

    #[test]
    fn an_empty_list_tells_how_to_upload() {
        let page = page(&[]);
        assert!(page.contains("No packages yet") && !page.contains("<table"), "{page}");
        assert!(page.contains("-T app-1.0.0.tar.gz"), "{page}");
        assert!(page.contains(" https://host.example/prefix/assets/</code>"), "{page}");
    }

    #[test]
    fn a_base_url_cannot_break_out_of_the_upload_command() {
        let page = packages_page(&[], "http://h/$(reboot)/").unwrap();
        assert!(page.contains("&#39;http://h/$(reboot)/assets/&#39;</code>"), "{page}");
    }

    #[test]
    fn a_shell_reads_the_command_as_it_was_meant() {
        let encoded = "https://h/assets/it%27s%20%24HOME%3B%20%60id%60%20%22q%22.zip";
        for (name, url, expected) in [
            (
                "app-1.0.zip",
                "https://h/assets/app-1.0.zip",
                vec!["curl", "-fLO", "https://h/assets/app-1.0.zip"],
            ),
            (
                "it's $HOME; `id` \"q\".zip",
                encoded,
                vec!["curl", "-fLo", "it's $HOME; `id` \"q\".zip", encoded],
            ),
            (
                "größe.zip",
                "https://h/assets/gr%C3%B6%C3%9Fe.zip",
                vec!["curl", "-fLo", "größe.zip", "https://h/assets/gr%C3%B6%C3%9Fe.zip"],
            ),
            ("- a", "https://h/assets/-%20a", vec!["curl", "-fLo", "./- a", "https://h/assets/-%20a"]),
            ("a", "http://[::1]:8000/assets/a", vec!["curl", "-gfLO", "http://[::1]:8000/assets/a"]),
            ("a&b", "https://h/assets/a&b", vec!["curl", "-fLO", "https://h/assets/a&b"]),
        ] {
            assert_eq!(words(&row(name, url).command()), expected);
        }
    }

    #[test]
    fn a_command_has_no_misleading_character() {
        for (name, url) in [
            ("a\u{1b}[201~b", "https://h/assets/a%1B%5B201~b"),
            ("a\u{202e}gpj.exe", "https://h/assets/a%E2%80%AEgpj.exe"),
        ] {
            assert_eq!(words(&row(name, url).command()), ["curl", "-fLO", url]);
        }
    }

    #[test]
    fn counts_are_grouped_and_agree_with_their_noun() {
        let texts = [0, 1, 999, 1_000, 1_234_567].map(|n| counted(n, "byte"));
        assert_eq!(texts, ["0 bytes", "1 byte", "999 bytes", "1,000 bytes", "1,234,567 bytes"]);
    }

    #[test]
    fn the_viewer_is_found_inside_aides_page() {
        for (asset, theirs, ours) in [
            (&*DOCS_JS, "SwaggerUIBundle", include_str!("pages/docs.js")),
            (&*DOCS_CSS, ".swagger-ui", include_str!("pages/docs.css")),
        ] {
            let body = std::str::from_utf8(&asset.body).unwrap();
            let library = body.strip_suffix(ours).unwrap();
            assert!(
                library.len() > 100_000
                    && library.contains(theirs)
                    && !library.contains("id=\"swagger-ui\">")
            );
        }
    }

    #[tokio::test]
    async fn a_file_is_kept_for_ever_only_under_its_own_version() {
        let ours = format!("/static/page.css?v={}", PAGE_CSS.version);
        for (uri, expected) in [
            (ours.as_str(), "public, max-age=31536000, immutable"),
            ("/static/page.css?v=0123456789abcdef", "no-cache"),
            ("/static/page.css", "no-cache"),
        ] {
            let response = page_css(uri.parse().unwrap(), HeaderMap::new()).await;
            assert_eq!(response.headers()[CACHE_CONTROL], expected, "{uri}");
            assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
            assert_eq!(response.headers()[CONTENT_TYPE], "text/css; charset=utf-8");
        }
    }

    #[tokio::test]
    async fn a_known_version_is_not_sent_again() {
        let uri = Uri::from_static("/docs");
        let first = docs(uri.clone(), HeaderMap::new()).await;
        assert_eq!(first.status(), StatusCode::OK);
        let mut headers = HeaderMap::new();
        headers.insert(http::header::IF_NONE_MATCH, first.headers()[http::header::ETAG].clone());
        assert_eq!(docs(uri, headers).await.status(), StatusCode::NOT_MODIFIED);
    }

    #[test]
    fn a_page_allows_nothing_inline_and_no_other_host() {
        let response = harmless(page(&[]).into_response());
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none';")
                && !policy.contains("unsafe")
                && !policy.contains("http")
        );
    }
}
