//! The process: opens the store, says where it is and what to do next, serves, and stops in order.

use std::{
    future,
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZero,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::Utc;
use tokio::net::TcpListener;

use crate::{
    auth::Authenticator,
    config::{self, Config, Secret},
    hasher,
    http::{
        self,
        serve::{Draining, Listener, serve, shutdown_signal},
        tls::Tls,
        workers::Workers,
    },
    metrics::Metrics,
    packages::Packages,
    releases::{self, Releases},
    retention,
    storage::{Storage, probe::Probe},
    sweep::{self, Swept},
};

/// The limits of the listener for metrics: those who ask are few, and their requests are small.
const METRICS_LIMITS: config::Server = config::Server {
    header_timeout: Duration::from_secs(30),
    stall_timeout: Duration::from_secs(30),
    shutdown_grace: Duration::ZERO,
    max_connections: 64,
    max_requests: 64,
    trusted_proxies: Vec::new(),
};

/// Serves until SIGTERM or SIGINT: connections on a thread for each processor, and all else in the runtime that this is
/// called in.
pub async fn run(mut config: Config) -> Result<()> {
    outlive_file_limit();
    let metrics = match config.metrics.bind_address {
        Some(_) => Metrics::on(),
        None => Metrics::default(),
    };
    metrics.configured(&config);
    let (storage, place) = open_storage(&config).await?;
    let packages = Packages::new(storage.measured(metrics), &config);
    let token = make_token(&mut config);
    let auth = Authenticator::new(config.auth_token.as_ref(), &config.auth)?.measured(metrics);
    let auth = Arc::new(auth);
    let tls = Tls::new(&config.tls, metrics)?;
    let listener = listen(SocketAddr::new(config.bind_address, config.port), "BIND_ADDRESS", "PORT").await?;
    let local = listener.local_addr()?;
    let metrics_at = match config.metrics.bind_address {
        Some(address) => Some(serve_metrics(address, &packages).await?),
        None => None,
    };

    let draining = Draining::default();
    let releases = Releases::new(packages.storage().clone(), &config);
    let app =
        http::app(packages.clone(), releases.clone(), Arc::clone(&auth), &config, local, draining.clone());
    let greeting = Greeting {
        local,
        metrics: metrics_at,
        scheme: scheme(config.tls.is_on()),
        writable: auth.has_credentials(),
        read_only: config.read_only,
    };
    greet(&place, &packages, greeting, token.as_ref());

    if !config.read_only {
        tokio::spawn(hasher::run(packages.clone()));
    }
    if let Some(interval) = config.retention.interval.filter(|_| !config.read_only) {
        tokio::spawn(sweep::run(packages.clone(), releases, interval));
    }
    let stop = async {
        if let Err(error) = shutdown_signal().await {
            tracing::error!(event = "shutdown", error = %error, "cannot wait for signals");
        }
    };
    let workers = thread::available_parallelism().map_or(1, NonZero::get);
    let workers = Workers::start(workers).context("cannot start the threads that serve connections")?;
    let listener = Listener::from(listener).encrypted(tls).measured(metrics).served_by(&workers);
    serve(listener, app, &config.server, draining, stop).await;
    packages.storage().finish().await;
    Ok(())
}

/// Where the size of files is limited (`ulimit -f`), a write past the limit must fail, and not end the process.
fn outlive_file_limit() {
    use tokio::signal::unix::{SignalKind, signal};
    // A handler replaces the default action, which is to end the process, for good.
    if let Err(error) = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())) {
        tracing::warn!(event = "startup", %error, "a write past the limit on file sizes (`ulimit -f`) would end the server");
    }
}

/// Listens on an address that two settings name, which may be the same one.
async fn listen(address: SocketAddr, host_key: &str, port_key: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = explain_bind(error.kind(), host_key, port_key);
        anyhow::Error::new(error).context(format!("cannot listen on {address}: {advice}"))
    })
}

/// What to do when an address cannot be listened on.
fn explain_bind(kind: io::ErrorKind, host_key: &str, port_key: &str) -> String {
    match kind {
        io::ErrorKind::AddrInUse => {
            format!("another program listens there; stop it, or choose another port with `{port_key}`")
        }
        io::ErrorKind::PermissionDenied => format!(
            "ports below 1024 need a privilege (`CAP_NET_BIND_SERVICE`); choose another with `{port_key}`"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "this machine does not have that address; set `{host_key}` to one it has, or to `0.0.0.0` for all"
        ),
        _ if host_key == port_key => format!("check `{host_key}`"),
        _ => format!("check `{host_key}` and `{port_key}`"),
    }
}

/// Serves the metrics for as long as the process lives, while it stops too.
async fn serve_metrics(address: SocketAddr, packages: &Packages) -> Result<SocketAddr> {
    let key = "METRICS__BIND_ADDRESS";
    let listener = listen(address, key, key).await?;
    let local = listener.local_addr()?;
    let app = http::metrics::app(packages.clone());
    tokio::spawn(async move {
        serve(listener, app, &METRICS_LIMITS, Draining::default(), future::pending()).await;
    });
    Ok(local)
}

/// What a sweep would remove, and why, as a table.
pub async fn sweep_preview(config: &Config) -> Result<String> {
    let (packages, _) = open(config).await?;
    let listing = packages.list().await?;
    let table = retention::table(&retention::decide(&listing.candidates(), packages.policy(), Utc::now()));
    let releases = Releases::new(packages.storage().clone(), config);
    Ok(table + &releases::sweep::preview(&releases).await?)
}

/// Removes what retention no longer keeps, once.
pub async fn sweep_once(config: &Config) -> Result<()> {
    let (packages, _) = open(config).await?;
    let releases = Releases::new(packages.storage().clone(), config);
    let (swept, of_releases) = sweep::both(&packages, &releases).await?;
    let outcome = match swept {
        Swept { first: true, removed, .. } if removed + of_releases.removed > 0 => {
            "the first look at a store removes nothing; sweep again to remove what the lines above name"
        }
        _ => "swept",
    };
    tracing::info!(
        event = "sweep",
        kept = swept.kept + of_releases.kept,
        removed = swept.removed + of_releases.removed,
        failed = swept.failed + of_releases.failed,
        "{outcome}"
    );
    let failed = swept.failed + of_releases.failed;
    anyhow::ensure!(failed == 0, "{failed} packages or releases could not be removed; the log says why");
    Ok(())
}

/// Where this configuration's own server is reached from this machine.
pub fn local_url(config: &Config) -> String {
    let host = match config.bind_address {
        host if !host.is_unspecified() => host,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    format!("{}://{}", scheme(config.tls.is_on()), SocketAddr::new(host, config.port))
}

fn scheme(encrypted: bool) -> &'static str {
    if encrypted { "https" } else { "http" }
}

/// The packages of the configured store, and where they are in words.
async fn open(config: &Config) -> Result<(Packages, String)> {
    let (storage, place) = open_storage(config).await?;
    Ok((Packages::new(storage, config), place))
}

async fn open_storage(config: &Config) -> Result<(Storage, String)> {
    let memory = config.upload_memory_bytes;
    let Some(url) = &config.storage_url else {
        let (path, reason) = config::storage_path(config);
        // Absolute, so that the log says where that is, whatever directory the process was started in.
        let path = std::path::absolute(&path).unwrap_or(path);
        return Ok((open_directory(&path, config)?, format!("`{}` ({reason})", path.display())));
    };
    let storage = match (url.scheme(), url.host_str()) {
        ("s3", Some(bucket)) => {
            let prefix = percent_encoding::percent_decode_str(url.path()).decode_utf8()?;
            let environment =
                std::env::vars().filter(|(variable, _)| variable.to_ascii_lowercase().starts_with("aws_"));
            let endpoint = config.redirect_endpoint.as_ref();
            if config.read_only {
                Storage::bucket_to_read(bucket, &prefix, environment, endpoint).await?
            } else {
                let last_writer_wins = config.allow_last_writer_wins;
                Storage::bucket(bucket, &prefix, environment, endpoint, memory, last_writer_wins).await?
            }
        }
        ("file", None | Some("")) => {
            let path = url.to_file_path().map_err(|()| {
                anyhow::anyhow!("`storage_url` names no directory; write it as `file:///path`")
            })?;
            open_directory(&path, config)?
        }
        ("memory", _) => Storage::memory(memory),
        _ => anyhow::bail!(
            "`storage_url` begins with `{}:`; write `s3://bucket/prefix`, `file:///path` or `memory://`",
            url.scheme()
        ),
    };
    Ok((storage, format!("`{url}`")))
}

fn open_directory(path: &Path, config: &Config) -> Result<Storage> {
    if config.read_only {
        Storage::directory_to_read(path)
    } else {
        Storage::directory(path, config.upload_memory_bytes)
    }
}

/// Tries everything that the server does with its store; prints a table. An error if anything failed.
pub async fn doctor(config: &Config) -> Result<()> {
    anyhow::ensure!(
        !config.read_only,
        "the doctor writes to the store, and `read_only` is set; run it with `READ_ONLY=false`"
    );
    let (storage, place) = open_storage(config).await?;
    let mut out = io::stdout().lock();
    writeln!(out, "Trying {place}\n")?;
    let probes = storage.diagnose().await;
    for Probe { what, outcome, took } in &probes {
        let (mark, text) = match outcome {
            Ok(seen) => ("ok  ", seen),
            Err(wrong) => ("FAIL", wrong),
        };
        writeln!(out, "  {mark}  {what:<34} {:>6} ms  {text}", took.as_millis())?;
    }
    let failed = probes.iter().filter(|probe| probe.outcome.is_err()).count();
    writeln!(out)?;
    anyhow::ensure!(failed == 0, "{failed} of {} probes failed", probes.len());
    writeln!(out, "All {} probes passed.", probes.len())?;
    Ok(())
}

/// On a terminal, where nobody has configured who may write: a token for this run. `None` if there is none to show.
///
/// Elsewhere a token in the log would be a leak, and every replica would make another.
fn make_token(config: &mut Config) -> Option<Secret> {
    let configured = config.read_only
        || config.auth_token.is_some()
        || !config.auth.tokens.is_empty()
        || config.auth.jwt.is_some();
    if configured || !io::stderr().is_terminal() {
        return None;
    }
    let token = Secret::new(BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>()));
    config.auth_token = Some(token.clone());
    Some(token)
}

/// Where the server listens, what it speaks there, and what it lets people do.
#[derive(Clone, Copy)]
struct Greeting {
    local: SocketAddr,
    metrics: Option<SocketAddr>,
    scheme: &'static str,
    /// Whether anybody has a token.
    writable: bool,
    read_only: bool,
}

/// Says where the server is, and on a terminal what to try next.
fn greet(place: &str, packages: &Packages, greeting: Greeting, token: Option<&Secret>) {
    let Greeting { local, metrics, scheme, writable, read_only } = greeting;
    let host =
        if local.ip().is_unspecified() { format!("localhost:{}", local.port()) } else { local.to_string() };
    let url = format!("{scheme}://{host}");
    tracing::info!(
        event = "startup",
        address = %local,
        url,
        metrics = metrics.map(tracing::field::display),
        storage = %packages.storage(),
        version = env!("CARGO_PKG_VERSION"),
        "serving the packages in {place} on {url}"
    );
    if read_only {
        tracing::warn!(
            event = "startup",
            "read-only: uploads and deletions are refused, and nothing is swept, until `read_only` is off again"
        );
    } else if !writable {
        tracing::warn!(
            event = "startup",
            "no token is configured, so nobody can upload or delete: set `AUTH_TOKEN` to a long random text \
             (`openssl rand -hex 24`) and start again"
        );
    }
    if read_only || !io::stderr().is_terminal() {
        return;
    }
    let shown = match token {
        Some(token) => token.reveal(),
        None => "$AUTH_TOKEN",
    };
    let made = if token.is_some() {
        format!("\n  Token for this run (set AUTH_TOKEN to choose your own):\n\n    {shown}\n")
    } else {
        String::new()
    };
    // A terminal that went away is no reason to stop.
    let _ = writeln!(
        io::stderr(),
        "{made}\n  Publish   curl -T FILE -H \"Authorization: Bearer {shown}\" {url}/assets/\n  \
         Latest    curl {url}/latest\n  Look      {url}/\n"
    );
}
