//! The configuration: `config.default.yaml` < the file at `CONFIG_PATH` < environment.
//!
//! - Every refusal names the key, where the value came from (file or variable) and what is wanted instead.
//! - A secret stays the text it was written as, and appears in no message, no `Debug` and no description.
//! - Only known keys are taken from the environment; a misspelt key of a section of ours is refused, as in the file.
//!
//! What a setting does is its module's business, and what it means to an operator stands in the defaults file.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::{self, Write as _},
    fs, io,
    marker::PhantomData,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use figment::{
    Error as FigmentError, Figment, Metadata, Profile, Provider, Source,
    error::Kind,
    providers::{Format as _, Yaml},
    util::nest,
    value::{Dict, Map, Tag, Value},
};
use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer as _, Unexpected, Visitor, value::SeqAccessDeserializer},
};
use url::Url;

use crate::{auth::Scope, releases::name::Repository, telemetry};

/// Every key with its default and an operator's comment: the manual.
pub const DEFAULTS: &str = include_str!("config.default.yaml");

/// Where the file is looked for while `CONFIG_PATH` is not set.
pub const DEFAULT_PATH: &str = "/etc/release-server/config.yaml";

/// A text that never prints itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself; named so that each use is seen in review.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hidden]")
    }
}

/// Every setting. `config.default.yaml` is the manual.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Config {
    pub bind_address: IpAddr,
    pub port: u16,
    pub storage_path: Option<PathBuf>,
    pub storage_url: Option<url::Url>,
    pub read_only: bool,
    pub auth_token: Option<Secret>,
    /// `None`: the default of 10, applied only to what was uploaded through the server.
    pub max_packages: Option<usize>,
    /// http or https; its path ends in `/`, so that [`Url::join`] appends to a prefix.
    pub public_url: Option<Url>,
    pub max_upload_bytes: u64,
    pub upload_memory_bytes: u64,
    pub downloads: Downloads,
    pub redirect_endpoint: Option<url::Url>,
    pub allow_last_writer_wins: bool,
    #[serde(deserialize_with = "duration")]
    pub listing_max_age: Duration,
    #[serde(deserialize_with = "duration")]
    pub listing_by_hand_max_age: Duration,
    pub cache: Cache,
    pub retention: Retention,
    pub releases: Releases,
    /// `owner/repo`; `None`: no repository shows the packages.
    pub package_repository: Option<String>,
    pub server: Server,
    pub auth: Auth,
    pub log: Log,
    pub metrics: Metrics,
    pub tls: Tls,
}

/// Who sends the bytes of a package in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Downloads {
    /// This server, always.
    Stream,
    /// This server, unless the request says `?redirect=true`.
    OnRequest,
    /// The store, by a redirect to a signed link, unless the request says `?redirect=false`.
    Redirect,
}

/// The in-memory cache of small, hot packages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Cache {
    /// 0 turns it off.
    pub total_bytes: u64,
    pub max_package_bytes: u64,
}

/// What the sweep removes, and how often it looks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Retention {
    /// `None`: this process never sweeps by itself.
    #[serde(deserialize_with = "optional_duration")]
    pub interval: Option<Duration>,
    /// Newest versions kept of each family; 0 = unlimited.
    pub versions_per_family: usize,
    #[serde(deserialize_with = "optional_duration")]
    pub max_age: Option<Duration>,
    /// Newest releases kept of each repository; 0 = unlimited.
    pub releases: usize,
    /// Newest prereleases kept of each repository; 0 = unlimited.
    pub prereleases: usize,
    #[serde(deserialize_with = "optional_duration")]
    pub release_max_age: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub prerelease_max_age: Option<Duration>,
    #[serde(deserialize_with = "optional_duration")]
    pub draft_max_age: Option<Duration>,
}

/// The releases of repositories.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Releases {
    pub immutable: bool,
}

/// Limits on what strangers may hold, and for how long.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Server {
    #[serde(deserialize_with = "duration")]
    pub header_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub stall_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub shutdown_grace: Duration,
    pub max_connections: usize,
    pub max_requests: usize,
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
}

/// Who may do what.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Auth {
    pub private_reads: bool,
    /// `owner/repo` or `owner/*`.
    #[serde(default, deserialize_with = "list")]
    pub private_repositories: Vec<String>,
    pub tokens: Vec<NamedToken>,
    pub jwt: Option<Jwt>,
}

/// A token known by its SHA-256.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct NamedToken {
    pub name: String,
    /// 64 hex digits.
    pub sha256: String,
    #[serde(deserialize_with = "list")]
    pub scopes: Vec<Scope>,
    #[serde(default, deserialize_with = "list")]
    pub repositories: Vec<String>,
}

/// Which JSON Web Tokens are believed, and what they grant.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Jwt {
    pub issuer: String,
    #[serde(deserialize_with = "list")]
    pub audience: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub algorithms: Vec<String>,
    #[serde(default)]
    pub secret: Option<Secret>,
    #[serde(default)]
    pub public_key_file: Option<PathBuf>,
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    #[serde(default)]
    pub jwks_url: Option<Url>,
    #[serde(default = "default_leeway", deserialize_with = "duration")]
    pub leeway: Duration,
    /// Needed in addition to `iss`, `aud` and `exp`.
    #[serde(default)]
    pub required_claims: Vec<String>,
    #[serde(default)]
    pub rules: Vec<JwtRule>,
}

fn default_leeway() -> Duration {
    Duration::from_mins(1)
}

/// Grants `scopes` to a token all of whose `claims` match.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct JwtRule {
    #[serde(default, deserialize_with = "claims")]
    pub claims: BTreeMap<String, String>,
    #[serde(deserialize_with = "list")]
    pub scopes: Vec<Scope>,
    #[serde(default, deserialize_with = "list")]
    pub repositories: Vec<String>,
}

/// What the log looks like.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "`config.default.yaml` documents every key")]
pub struct Log {
    /// A `tracing` filter, such as `info` or `release_server=debug`.
    pub level: String,
    pub format: LogFormat,
}

/// Where metrics are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// `None`: nothing is counted, and nothing served.
    #[serde(deserialize_with = "optional_address")]
    pub bind_address: Option<SocketAddr>,
}

/// With what connections are encrypted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM; set if and only if `key` is.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// Whether connections are encrypted.
    pub fn is_on(&self) -> bool {
        self.certificate.is_some() && self.key.is_some()
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For eyes.
    Text,
}

/// The settings in effect, and where each came from.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Secrets are hidden here already.
    settings: Vec<Setting>,
}

/// A line of [`Loaded::describe`].
#[derive(Debug)]
struct Setting {
    key: String,
    value: String,
    origin: String,
}

/// Reads the process's environment, and the file it names or that lies at [`DEFAULT_PATH`].
pub fn load() -> anyhow::Result<Loaded> {
    // A name that is not UTF-8 is none of ours; a value that is not is refused only where it matters.
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    load_from(environment, Path::new(DEFAULT_PATH))
}

/// As [`load`], from the environment given; `default_path` is read if `CONFIG_PATH` is not set, and may be absent.
pub fn load_from(
    environment: impl IntoIterator<Item = (String, OsString)>,
    default_path: &Path,
) -> anyhow::Result<Loaded> {
    let variables = variables(environment);
    let explicit = variables.get("config_path").map(|variable| Path::new(&variable.value));
    let path = explicit.unwrap_or(default_path);
    let file = match fs::read_to_string(path) {
        Ok(text) => Some((path.to_owned(), text)),
        Err(error) if explicit.is_none() && error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let by = if explicit.is_some() { " named by `CONFIG_PATH`" } else { "" };
            return Err(error)
                .with_context(|| format!("cannot read the configuration file `{}`{by}", path.display()));
        }
    };
    assemble(file, variables)
}

/// Where packages are kept, and why there: `storage_path`, else `/data` where that directory exists, else `./data`.
pub fn storage_path(config: &Config) -> (PathBuf, &'static str) {
    match &config.storage_path {
        Some(path) => (path.clone(), "`storage_path` is set"),
        None if Path::new("/data").is_dir() => {
            ("/data".into(), "`STORAGE_PATH` is not set, and `/data` is there")
        }
        None => ("./data".into(), "`STORAGE_PATH` is not set, and there is no `/data`"),
    }
}

impl Loaded {
    /// Every setting in effect, one a line: key, value, and where the value came from. Secrets read `[hidden]`.
    pub fn describe(&self) -> String {
        let width = |text: fn(&Setting) -> &str, most| {
            self.settings.iter().map(|setting| text(setting).chars().count()).max().unwrap_or(0).min(most)
        };
        let (key_width, value_width) =
            (width(|setting| &setting.key, 40), width(|setting| &setting.value, 40));
        let mut text = match &self.file {
            Some(path) => format!("configuration file: `{}`\n\n", path.display()),
            None => "configuration file: none\n\n".to_owned(),
        };
        for Setting { key, value, origin } in &self.settings {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{key:key_width$}  {value:value_width$}  {origin}");
        }
        text
    }
}

/// A variable that is set, under its own spelling.
#[derive(Debug)]
struct Variable {
    name: String,
    value: OsString,
}

/// The variables that are not empty, by their lower-case names; of two that differ in case, `PORT` wins over `port`.
fn variables(environment: impl IntoIterator<Item = (String, OsString)>) -> BTreeMap<String, Variable> {
    let mut all: Vec<_> = environment.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    // Upper case sorts first, so it has to come last.
    all.sort_by(|one, other| other.cmp(one));
    all.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), Variable { name, value })).collect()
}

/// The whole of the loading but for reading: no process state, no disk.
fn assemble(
    file: Option<(PathBuf, String)>,
    variables: BTreeMap<String, Variable>,
) -> anyhow::Result<Loaded> {
    let defaults: Dict = Yaml::from_str(DEFAULTS).context("the built-in defaults are broken")?;
    let mut figment = Figment::from(Layer { origin: Metadata::named("default"), values: defaults.clone() });
    if let Some((path, text)) = &file {
        for values in file_values(text, &defaults).with_context(|| format!("in `{}`", path.display()))? {
            let origin = Metadata::from(format!("file `{}`", path.display()), path.as_path());
            figment = figment.merge(Layer { origin, values });
        }
    }
    for (lower_case, Variable { name, value }) in variables {
        let Some(key) = key_of(&lower_case, &defaults) else {
            continue;
        };
        let value = value.into_string().map_err(|_| anyhow!("the value of `{name}` is not valid UTF-8"))?;
        let Some(values) = nest(&key, variable_value(&key, value)).into_dict() else {
            continue;
        };
        let origin = Metadata::from(format!("variable `{name}`"), Source::Custom(name));
        figment = figment.merge(Layer { origin, values });
    }

    let merged = Merged { root: figment.find_value("").map_err(anyhow::Error::new)?, figment, defaults };
    // Lossy: what is text in the environment may be a number or a boolean here.
    let mut config: Config = merged.figment.extract_lossy().map_err(|error| merged.explain(&error))?;
    merged.check(&config)?;
    if let Some(url) = &mut config.public_url
        && !url.path().ends_with('/')
    {
        url.set_path(&format!("{}/", url.path()));
    }
    let settings = merged.settings(&config);
    Ok(Loaded { config, file: file.map(|(path, _)| path), settings })
}

/// What the file says, as layers to put upon each other.
fn file_values(text: &str, defaults: &Dict) -> anyhow::Result<Vec<Dict>> {
    // A file of comments alone is `null`.
    let mut values = Yaml::from_str::<Option<Dict>>(text)?.unwrap_or_default();
    // So is a section whose keys are all commented out; it changes nothing.
    values.retain(|key, value| {
        !(matches!(value, Value::Empty(..)) && matches!(defaults.get(key), Some(Value::Dict(..))))
    });
    // A file these types do not fit is refused with a better message when the layers are extracted.
    let secrets = Yaml::from_str::<AsWritten>(text).unwrap_or_default().texts();
    let secrets = secrets.filter_map(|(key, text)| nest(key, text.into()).into_dict());
    Ok(std::iter::once(values).chain(secrets).collect())
}

/// The secrets of a file in the characters it has: to YAML `0x1F` is 31, as a token it is `0x1F`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AsWritten {
    auth_token: Option<String>,
    auth: Option<AuthAsWritten>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthAsWritten {
    jwt: Option<JwtAsWritten>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JwtAsWritten {
    secret: Option<String>,
}

impl AsWritten {
    fn texts(self) -> impl Iterator<Item = (&'static str, String)> {
        let secret = self.auth.and_then(|auth| auth.jwt).and_then(|jwt| jwt.secret);
        [("auth_token", self.auth_token), ("auth.jwt.secret", secret)]
            .into_iter()
            .filter_map(|(key, text)| Some((key, text?)))
    }
}

/// The dotted key a variable is meant for: a setting of the top level, or anything below a section of ours.
fn key_of(lower_case: &str, defaults: &Dict) -> Option<String> {
    match lower_case.split_once("__") {
        None => {
            defaults.get(lower_case).filter(|value| value.as_dict().is_none()).map(|_| lower_case.to_owned())
        }
        Some((section, _)) => {
            defaults.get(section)?.as_dict()?;
            Some(lower_case.replace("__", "."))
        }
    }
}

/// JSON where it is JSON (a list, a section), else text; a secret is always text.
fn variable_value(key: &str, text: String) -> Value {
    let json = text.starts_with(['[', '{']) && !is_secret(key);
    json.then(|| serde_json::from_str(&text).ok()).flatten().unwrap_or_else(|| text.into())
}

/// Whether the value of this key, or of this last part of one, is not for showing.
fn is_secret(key: &str) -> bool {
    matches!(key.rsplit('.').next(), Some("auth_token" | "secret" | "sha256"))
}

/// Values of one origin.
struct Layer {
    origin: Metadata,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.origin.clone()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, FigmentError> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The layers upon each other, with what it takes to say what is wrong with them.
struct Merged {
    figment: Figment,
    root: Value,
    defaults: Dict,
}

impl Merged {
    /// Refuses values that are of the right type and yet make no sense.
    fn check(&self, config: &Config) -> anyhow::Result<()> {
        let Config { cache, retention, server, auth, .. } = config;
        if let Some(token) = &config.auth_token {
            let token = token.reveal();
            self.require(!token.trim().is_empty(), "auth_token", "it is empty; remove it, or set a value")?;
            self.require(token.trim() == token, "auth_token", "it must not begin or end with white space")?;
        }
        if let Some(url) = &config.public_url {
            self.require_http("public_url", url)?;
            let plain = url.query().is_none() && url.fragment().is_none();
            self.require(plain, "public_url", "it must have no query and no fragment")?;
        }
        if let Some(url) = &config.storage_url {
            // It is named in the log.
            self.require_anonymous("storage_url", url)?;
        }
        if let Some(url) = &config.redirect_endpoint {
            self.require_http("redirect_endpoint", url)?;
        }
        if let Some(repository) = &config.package_repository {
            let is_one = Repository::parse(repository).is_some();
            self.require(is_one, "package_repository", "it must be `owner/repository`, or `null`")?;
        }
        self.require(config.max_upload_bytes > 0, "max_upload_bytes", "it must be more than 0")?;
        self.require(cache.max_package_bytes > 0, "cache.max_package_bytes", "it must be more than 0")?;
        let fits = cache.total_bytes == 0 || cache.max_package_bytes <= cache.total_bytes;
        let at_most = format!("it must be at most `cache.total_bytes`, {}", cache.total_bytes);
        self.require(fits, "cache.max_package_bytes", &at_most)?;
        for (key, duration) in [
            ("retention.interval", retention.interval),
            ("retention.max_age", retention.max_age),
            ("retention.release_max_age", retention.release_max_age),
            ("retention.prerelease_max_age", retention.prerelease_max_age),
            ("retention.draft_max_age", retention.draft_max_age),
            ("server.header_timeout", Some(server.header_timeout)),
            ("server.stall_timeout", Some(server.stall_timeout)),
        ] {
            self.require(duration != Some(Duration::ZERO), key, "it must be more than `0s`")?;
        }
        self.require(server.max_connections > 0, "server.max_connections", "it must be more than 0")?;
        self.require(server.max_requests > 0, "server.max_requests", "it must be more than 0")?;
        for (key, set, other) in [
            ("tls.certificate", config.tls.certificate.is_some(), config.tls.key.is_some()),
            ("tls.key", config.tls.key.is_some(), config.tls.certificate.is_some()),
        ] {
            self.require(!set || other, key, "set both `tls.certificate` and `tls.key`, or neither")?;
        }
        for (index, token) in auth.tokens.iter().enumerate() {
            let digest =
                token.sha256.len() == 64 && token.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
            let digits = "it must be 64 hex digits: `printf %s \"$TOKEN\" | sha256sum`";
            self.require(digest, &format!("auth.tokens.{index}.sha256"), digits)?;
            let known = auth.tokens.iter().take(index).any(|other| other.name == token.name);
            let unique = "another token has this name already";
            self.require(!known, &format!("auth.tokens.{index}.name"), unique)?;
        }
        if let Some(jwt) = &auth.jwt {
            let keys = [
                jwt.secret.is_some(),
                jwt.public_key_file.is_some(),
                jwt.jwks_file.is_some(),
                jwt.jwks_url.is_some(),
            ];
            if keys.into_iter().filter(|given| *given).count() != 1 {
                bail!(
                    "`auth.jwt` needs exactly one of `secret`, `public_key_file`, `jwks_file` and `jwks_url`"
                );
            }
            if let Some(url) = &jwt.jwks_url {
                self.require_http("auth.jwt.jwks_url", url)?;
            }
        }
        telemetry::filter(&config.log.level).map_err(|error| self.bad("log.level", &error.to_string()))?;
        Ok(())
    }

    fn require(&self, fine: bool, key: &str, otherwise: &str) -> anyhow::Result<()> {
        if fine { Ok(()) } else { Err(self.bad(key, otherwise)) }
    }

    fn require_http(&self, key: &str, url: &Url) -> anyhow::Result<()> {
        self.require(
            matches!(url.scheme(), "http" | "https"),
            key,
            "it must begin with `http://` or `https://`",
        )?;
        self.require_anonymous(key, url)
    }

    fn require_anonymous(&self, key: &str, url: &Url) -> anyhow::Result<()> {
        let anonymous = url.username().is_empty() && url.password().is_none();
        self.require(anonymous, key, "it must have no user name and no password")
    }

    /// "`port` is `http` (variable `PORT`): it must be …".
    fn bad(&self, key: &str, reason: &str) -> anyhow::Error {
        let Some(value) = self.find(key.split('.')) else {
            return anyhow!("`{key}`: {reason}");
        };
        anyhow!("`{key}` is {} ({}): {reason}", quoted(key, value), self.origin(value.tag()))
    }

    fn explain(&self, error: &FigmentError) -> anyhow::Error {
        let key = error.path.join(".");
        let origin = error.metadata.as_ref().map_or("the configuration", |metadata| &metadata.name);
        match &error.kind {
            Kind::UnknownField(_, known) => self.unknown(error, origin, known),
            Kind::MissingField(name) => anyhow!("`{key}` ({origin}) needs `{name}`"),
            // The value by its path, which may hold dots within a part.
            kind => {
                let reason = reason(kind);
                match self.find(error.path.iter().map(String::as_str)) {
                    Some(value) => anyhow!("`{key}` is {} ({origin}): {reason}", quoted(&key, value)),
                    None => anyhow!("`{key}` ({origin}): {reason}"),
                }
            }
        }
    }

    /// "unknown key `max_package` in file `…`; did you mean `max_packages`?".
    fn unknown(&self, error: &FigmentError, origin: &str, siblings: &[&str]) -> anyhow::Error {
        let as_variable = |key: &str| key.to_ascii_uppercase().replace('.', "__");
        let key = error.path.join(".");
        let nearest = self.nearest(&error.path, siblings);
        let source = error.metadata.as_ref().and_then(|metadata| metadata.source.as_ref());
        let variable = source.and_then(Source::custom);
        // The variable is the key, unless it is JSON with the key inside.
        let (what, write): (_, &dyn Fn(&str) -> String) = match variable {
            Some(name) if name.eq_ignore_ascii_case(&as_variable(&key)) => {
                (format!("unknown variable `{name}`"), &as_variable)
            }
            _ => (format!("unknown key `{key}` in {origin}"), &str::to_owned),
        };
        match nearest {
            Some(nearest) => anyhow!("{what}; did you mean `{}`?", write(&nearest)),
            None => anyhow!("{what}; known here: {}", words(siblings)),
        }
    }

    /// The known key that was probably meant: of that name elsewhere, or of a similar name in the same section.
    fn nearest(&self, path: &[String], siblings: &[&str]) -> Option<String> {
        let (name, section) = path.split_last()?;
        let name = name.to_lowercase();
        if self.defaults.contains_key(&name) {
            return Some(name);
        }
        let holds = |value: &Value| value.as_dict().is_some_and(|keys| keys.contains_key(&name));
        if let Some((elsewhere, _)) = self.defaults.iter().find(|(key, value)| {
            let same = section.len() == 1 && section.first() == Some(*key);
            !same && holds(value)
        }) {
            return Some(format!("{elsewhere}.{name}"));
        }
        let (_, sibling) = siblings
            .iter()
            .map(|sibling| (strsim::normalized_damerau_levenshtein(&name, sibling), sibling))
            .filter(|(likeness, _)| *likeness >= 0.6)
            .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
        Some(section.iter().map(String::as_str).chain([*sibling]).collect::<Vec<_>>().join("."))
    }

    fn find<'k>(&self, path: impl Iterator<Item = &'k str>) -> Option<&Value> {
        path.into_iter().try_fold(&self.root, |value, part| match value {
            Value::Dict(_, keys) => keys.get(part),
            Value::Array(_, items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    fn origin(&self, tag: Tag) -> &str {
        self.figment.get_metadata(tag).map_or("default", |metadata| &metadata.name)
    }

    /// Every key in effect, secrets hidden.
    fn settings(&self, config: &Config) -> Vec<Setting> {
        let mut settings = Vec::new();
        self.add_settings("", &self.root, &mut settings);
        for setting in settings.iter_mut().filter(|setting| setting.key == "storage_path") {
            let (path, reason) = storage_path(config);
            setting.value = std::path::absolute(&path).unwrap_or(path).display().to_string();
            if config.storage_path.is_none() {
                setting.origin = format!("{} ({reason})", setting.origin);
            }
        }
        // The one default that stands in a type, as its section has none.
        let leeway = "auth.jwt.leeway";
        if let Some(jwt) = &config.auth.jwt
            && self.find(leeway.split('.')).is_none()
        {
            settings.push(Setting {
                key: leeway.to_owned(),
                value: humantime::format_duration(jwt.leeway).to_string(),
                origin: "default".to_owned(),
            });
        }
        settings.sort_by(|one, other| one.key.cmp(&other.key));
        settings
    }

    fn add_settings(&self, key: &str, value: &Value, settings: &mut Vec<Setting>) {
        let below = |name: &str| {
            if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
        };
        match value {
            Value::Dict(_, keys) if !keys.is_empty() => {
                for (name, value) in keys {
                    self.add_settings(&below(name), value, settings);
                }
            }
            Value::Array(_, items) if items.iter().any(|item| item.as_dict().is_some()) => {
                for (index, item) in items.iter().enumerate() {
                    self.add_settings(&below(&index.to_string()), item, settings);
                }
            }
            value => settings.push(Setting {
                key: key.to_owned(),
                value: shown(key, value),
                origin: self.origin(value.tag()).to_owned(),
            }),
        }
    }
}

/// A value for reading, unless it is a secret or may hold one.
fn shown(key: &str, value: &Value) -> String {
    const HIDDEN: &str = "[hidden]";
    // Where a section belongs that has secrets, anything else may be a botched one.
    let section = matches!(key, "auth" | "auth.jwt" | "auth.tokens")
        || key.strip_prefix("auth.tokens.").is_some_and(|index| !index.contains('.'));
    match value {
        Value::Empty(..) => "null".to_owned(),
        Value::Array(_, items) if items.is_empty() => "[]".to_owned(),
        _ if section || is_secret(key) => HIDDEN.to_owned(),
        Value::String(_, text) => match Url::parse(text) {
            Ok(mut url)
                if url.has_authority() && !(url.username().is_empty() && url.password().is_none()) =>
            {
                let cut = url.set_password(None).and_then(|()| url.set_username("hidden"));
                cut.map_or_else(|()| HIDDEN.to_owned(), |()| url.to_string())
            }
            _ => text.clone(),
        },
        value => serde_json::to_string(value).unwrap_or_else(|_| HIDDEN.to_owned()),
    }
}

fn quoted(key: &str, value: &Value) -> String {
    match shown(key, value) {
        text if text == "[hidden]" => text,
        text => format!("`{text}`"),
    }
}

/// What is wanted instead, in an operator's words rather than in serde's.
fn reason(kind: &Kind) -> String {
    let wanted = match kind {
        Kind::InvalidType(_, wanted) | Kind::InvalidValue(_, wanted) => wanted.as_str(),
        Kind::UnknownVariant(_, known) => return format!("it must be one of {}", words(known)),
        // As the standard library and `url` say it.
        Kind::Message(text) if text == "invalid IP address syntax" => {
            "an IP address, such as `0.0.0.0`, `127.0.0.1` or `::`"
        }
        Kind::Message(text) if text.starts_with("relative URL without a base") => {
            "a URL that begins with `https://` or `http://`"
        }
        Kind::Message(text) => return text.clone(),
        other => return other.to_string(),
    };
    let wanted = match wanted {
        "u16" => "a whole number from 0 to 65535",
        "u64" | "usize" => "a whole number, 0 or more",
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "a text; put it in quotes",
        "a sequence" => "a list",
        wanted if wanted.starts_with("struct ") || wanted == "a map" => "a section with keys of its own",
        wanted => wanted,
    };
    format!("it must be {wanted}")
}

fn words(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

const A_DURATION: &str = "a duration with its unit, such as `30s`, `12h` or `90d`";

/// A duration, or `off`.
struct Period(Option<Duration>);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(A_DURATION)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                if text.eq_ignore_ascii_case("off") {
                    return Ok(Period(None));
                }
                humantime::parse_duration(text)
                    .map(|duration| Period(Some(duration)))
                    .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }
        }
        input.deserialize_str(Text)
    }
}

fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    Period::deserialize(input)?.0.ok_or_else(|| de::Error::invalid_value(Unexpected::Str("off"), &A_DURATION))
}

fn optional_duration<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<Period>::deserialize(input)?.and_then(|period| period.0))
}

/// A list, or its items in one text with commas between, as a variable has them.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(input: D) -> Result<Vec<T>, D::Error> {
    struct Items<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(|item| T::deserialize(item.into_deserializer())).collect()
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(items))
        }
    }
    input.deserialize_any(Items(PhantomData))
}

fn optional_address<'de, D: Deserializer<'de>>(input: D) -> Result<Option<SocketAddr>, D::Error> {
    let address = |text: String| {
        text.parse().map_err(|_| {
            de::Error::custom(format_args!(
                "`{text}` is no address with a port; write it as `0.0.0.0:9090` or `[::]:9090`"
            ))
        })
    };
    Option::<String>::deserialize(input)?.map(address).transpose()
}

/// Networks such as `10.0.0.0/8`; an address alone is the network of that one.
fn networks<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: String| {
        text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
            de::Error::custom(format_args!("`{text}` is no network; write it as `10.0.0.0/8` or `fd00::/8`"))
        })
    };
    list::<_, String>(input)?.into_iter().map(network).collect()
}

/// Texts by name. A number or a boolean is taken as its text, for so it is compared.
fn claims<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeMap<String, String>, D::Error> {
    let text = |(name, value): (String, Value)| {
        let text = match &value {
            Value::String(_, text) => text.clone(),
            Value::Bool(_, truth) => truth.to_string(),
            Value::Num(_, number) if number.to_f64().is_none() => shown("", &value),
            _ => {
                return Err(de::Error::custom(format_args!(
                    "claim `{name}` must be a text; put it in quotes"
                )));
            }
        };
        Ok((name, text))
    };
    BTreeMap::deserialize(input)?.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys a section's type knows, in its own words.
    fn known_keys<T: for<'de> Deserialize<'de> + fmt::Debug>() -> Vec<&'static str> {
        let error = Value::from(BTreeMap::from([("no such key", 1)])).deserialize::<T>().unwrap_err();
        let Kind::UnknownField(_, known) = error.kind else { panic!("{error}") };
        let mut known = known.to_vec();
        known.sort_unstable();
        known
    }

    #[test]
    fn the_defaults_file_has_exactly_the_keys_of_the_types() {
        let defaults: Dict = Yaml::from_str(DEFAULTS).unwrap();
        let keys = |dict: &Dict| dict.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&defaults), known_keys::<Config>());
        let sections: BTreeMap<_, _> =
            defaults.iter().filter_map(|(key, value)| Some((key.as_str(), keys(value.as_dict()?)))).collect();
        let types = BTreeMap::from([
            ("auth", known_keys::<Auth>()),
            ("cache", known_keys::<Cache>()),
            ("log", known_keys::<Log>()),
            ("metrics", known_keys::<Metrics>()),
            ("releases", known_keys::<Releases>()),
            ("retention", known_keys::<Retention>()),
            ("server", known_keys::<Server>()),
            ("tls", known_keys::<Tls>()),
        ]);
        assert_eq!(sections.keys().collect::<Vec<_>>(), types.keys().collect::<Vec<_>>());
        for (section, known) in types {
            assert_eq!(sections[section], known, "{section}");
        }
    }
}
