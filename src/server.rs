//! The process: opens the store, says where it is and what to do next, serves, and stops in order.

use std::{
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Result;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::Utc;
use tokio::net::TcpListener;

use crate::{
    auth::Authenticator,
    config::{self, Config, Secret},
    hasher,
    http::{
        self,
        serve::{Draining, serve, shutdown_signal},
    },
    packages::Packages,
    retention,
    storage::{Storage, probe::Probe},
    sweep::{self, Swept},
};

/// Serves until SIGTERM or SIGINT.
pub async fn run(mut config: Config) -> Result<()> {
    let (packages, place) = open(&config).await?;
    let token = make_token(&mut config);
    let auth = Arc::new(Authenticator::new(config.auth_token.as_ref(), &config.auth)?);
    let address = SocketAddr::new(config.bind_address, config.port);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        let advice = explain_bind(error.kind());
        anyhow::Error::new(error).context(format!("cannot listen on {address}: {advice}"))
    })?;
    let local = listener.local_addr()?;

    let draining = Draining::default();
    let app = http::app(packages.clone(), Arc::clone(&auth), &config, local, draining.clone());
    greet(&packages, &place, local, token.as_ref(), auth.has_credentials());

    tokio::spawn(hasher::run(packages.clone()));
    if let Some(interval) = config.retention.interval {
        tokio::spawn(sweep::run(packages.clone(), interval));
    }
    let stop = async {
        if let Err(error) = shutdown_signal().await {
            tracing::error!(event = "shutdown", error = %error, "cannot wait for signals");
        }
    };
    serve(listener, app, &config.server, draining, stop).await;
    packages.storage().finish().await;
    Ok(())
}

/// What to do when a port cannot be had.
fn explain_bind(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => {
            "another program listens there; stop it, or choose another port with `PORT`"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a privilege (`CAP_NET_BIND_SERVICE`); choose another with `PORT`"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; set `BIND_ADDRESS` to one it has, or to `0.0.0.0` for all"
        }
        _ => "check `BIND_ADDRESS` and `PORT`",
    }
}

/// What a sweep would remove, and why, as a table.
pub async fn sweep_preview(config: &Config) -> Result<String> {
    let (packages, _) = open(config).await?;
    let listing = packages.list().await?;
    Ok(retention::table(&retention::decide(&listing.candidates(), packages.policy(), Utc::now())))
}

/// Removes what retention no longer keeps, once.
pub async fn sweep_once(config: &Config) -> Result<()> {
    let (packages, _) = open(config).await?;
    let swept = sweep::pass(&packages).await?;
    let outcome = match swept {
        Swept { first: true, removed: 1.., .. } => {
            "the first look at a store removes nothing; sweep again to remove what the lines above name"
        }
        _ => "swept",
    };
    tracing::info!(
        event = "sweep",
        kept = swept.kept,
        removed = swept.removed,
        failed = swept.failed,
        "{outcome}"
    );
    anyhow::ensure!(swept.failed == 0, "{} packages could not be removed; the log says why", swept.failed);
    Ok(())
}

/// Where this configuration's own server is reached from this machine.
pub fn local_url(config: &Config) -> String {
    let host = match config.bind_address {
        host if !host.is_unspecified() => host,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    format!("http://{}", SocketAddr::new(host, config.port))
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
        return Ok((Storage::directory(&path, memory)?, format!("`{}` ({reason})", path.display())));
    };
    let storage = match (url.scheme(), url.host_str()) {
        ("s3", Some(bucket)) => {
            let prefix = percent_encoding::percent_decode_str(url.path()).decode_utf8()?;
            let environment =
                std::env::vars().filter(|(variable, _)| variable.to_ascii_lowercase().starts_with("aws_"));
            let endpoint = config.redirect_endpoint.as_ref();
            Storage::bucket(bucket, &prefix, environment, endpoint, memory, config.allow_last_writer_wins)
                .await?
        }
        ("file", None | Some("")) => {
            let path = url
                .to_file_path()
                .map_err(|()| anyhow::anyhow!("`storage_url` is not the path of a directory"))?;
            Storage::directory(&path, memory)?
        }
        ("memory", _) => Storage::memory(memory),
        _ => anyhow::bail!("`storage_url` is none of `s3://bucket/prefix`, `file:///path` and `memory://`"),
    };
    Ok((storage, format!("`{url}`")))
}

/// Tries everything that the server does with its store; prints a table. An error if anything failed.
pub async fn doctor(config: &Config) -> Result<()> {
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
    let configured =
        config.auth_token.is_some() || !config.auth.tokens.is_empty() || config.auth.jwt.is_some();
    if configured || !io::stderr().is_terminal() {
        return None;
    }
    let token = Secret::new(BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>()));
    config.auth_token = Some(token.clone());
    Some(token)
}

/// Says where the server is, and on a terminal what to try next.
fn greet(packages: &Packages, place: &str, local: SocketAddr, token: Option<&Secret>, writable: bool) {
    let host = if local.ip().is_unspecified() { "localhost".to_owned() } else { local.ip().to_string() };
    let url = format!("http://{host}:{}", local.port());
    tracing::info!(
        event = "startup",
        address = %local,
        storage = %packages.storage(),
        version = env!("CARGO_PKG_VERSION"),
        "serving the packages in {place} on {url}"
    );
    if !writable {
        tracing::warn!(
            event = "startup",
            "no token is configured, so nobody can upload or delete: set `AUTH_TOKEN` to a long random text \
             (`openssl rand -hex 24`) and start again"
        );
    }
    if !io::stderr().is_terminal() {
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
