//! TLS for places with no proxy in front: a certificate and its key from two files, which may change at any time.
//!
//! - The files are read again every second. A pair that fits is used from the next handshake on; connections that are
//!   open stay as they are. A pair that does not (half replaced, unreadable, of different keys) is logged once, and the
//!   last good one stays.
//! - A handshake has as long as the head of a request, in a task of its own: nobody's holds up another's.
//! - TLS 1.2 and 1.3; HTTP/2 or HTTP/1.1, as the client likes. Who speaks plain HTTP is told so.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs::default_provider},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
    server::TlsStream,
};

use crate::{
    config,
    metrics::{Handshake, Metrics, Reload},
};

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The first byte of a TLS handshake (RFC 8446, section 5.1); no HTTP method begins with it.
const HANDSHAKE: u8 = 22;

/// What a client is told that speaks plain HTTP here.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n\
    Content-Length: 50\r\n\r\n{\"message\": \"this port speaks https; ask by that\"}";

/// A certificate and its key, as they are on the disk.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    files: Files,
    metrics: Metrics,
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What the two files have, as a digest: the key is kept nowhere but where it is used.
type Contents = [u8; 32];

/// What is presented to clients.
struct Current {
    pair: RwLock<Arc<CertifiedKey>>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// Reads the files; an error names the one that cannot be used, and what is wrong. `None` if none is configured.
    pub fn new(config: &config::Tls, metrics: Metrics) -> anyhow::Result<Option<Self>> {
        let (Some(certificate), Some(key)) = (&config.certificate, &config.key) else { return Ok(None) };
        let files = Files { certificate: certificate.clone(), key: key.clone() };
        let provider = Arc::new(default_provider());
        let (pair, contents) = files.read(&provider)?;
        let current =
            Arc::new(Current { pair: RwLock::new(Arc::new(pair?)), provider: Arc::clone(&provider) });
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("no version of TLS can be used")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = Self { acceptor: TlsAcceptor::from(Arc::new(server)), current, files, metrics };
        tokio::spawn(tls.clone().watch(contents));
        Ok(Some(tls))
    }

    /// The encrypted stream; `None` if there came none to be within `limit`.
    pub(super) async fn handshake(&self, stream: TcpStream, limit: Duration) -> Option<TlsStream<TcpStream>> {
        let (outcome, stream) = match timeout(limit, self.accept(stream)).await {
            Ok(Ok(stream)) => (Handshake::Completed, Some(stream)),
            Ok(Err(error)) => {
                tracing::debug!(event = "connection", %error, "a TLS handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::TimedOut, None),
        };
        self.metrics.handshake(outcome);
        stream
    }

    async fn accept(&self, mut stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        let mut first = [HANDSHAKE];
        stream.peek(&mut first).await?;
        if first == [HANDSHAKE] {
            return self.acceptor.accept(stream).await;
        }
        stream.write_all(PLAIN).await?;
        stream.shutdown().await?;
        Err(std::io::Error::other("the client does not speak TLS"))
    }

    /// Looks at the files for ever.
    async fn watch(self, mut used: Contents) {
        // The last contents that were refused, and whether that was said.
        let mut refused: Option<(Result<Contents, String>, bool)> = None;
        loop {
            sleep(LOOK_AGAIN).await;
            let (files, provider) = (self.files.clone(), Arc::clone(&self.current.provider));
            let Ok(read) = tokio::task::spawn_blocking(move || files.read(&provider)).await else { continue };
            let (found, error) = match read {
                Ok((_, contents)) if contents == used => {
                    refused = None;
                    continue;
                }
                Ok((Ok(pair), contents)) => {
                    *self.current.pair.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                    (used, refused) = (contents, None);
                    self.metrics.reload(Reload::Used);
                    tracing::info!(event = "tls", "using the new certificate");
                    continue;
                }
                Ok((Err(error), contents)) => (Ok(contents), error),
                Err(error) => (Err(error.to_string()), error),
            };
            match &mut refused {
                Some((before, said)) if *before == found => {
                    // Not at first sight: two files are not replaced at the same moment.
                    if !std::mem::replace(said, true) {
                        self.metrics.reload(Reload::Refused);
                        tracing::warn!(
                            event = "tls",
                            error = format!("{error:#}"),
                            "the new certificate cannot be used; the last one stays"
                        );
                    }
                }
                _ => refused = Some((found, false)),
            }
        }
    }
}

impl Files {
    /// The pair, or what is wrong with it, and the digest of both files; an error if one cannot be read.
    fn read(&self, provider: &CryptoProvider) -> anyhow::Result<(anyhow::Result<CertifiedKey>, Contents)> {
        let certificate = read("tls.certificate", &self.certificate)?;
        let key = read("tls.key", &self.key)?;
        let hash =
            Sha256::new().chain_update(Sha256::digest(&certificate)).chain_update(Sha256::digest(&key));
        Ok((self.pair(&certificate, &key, provider), hash.finalize().into()))
    }

    fn pair(
        &self,
        certificate: &[u8],
        key: &[u8],
        provider: &CryptoProvider,
    ) -> anyhow::Result<CertifiedKey> {
        let (shown, key_shown) = (self.certificate.display(), self.key.display());
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .with_context(|| format!("`tls.certificate`: `{shown}` is damaged"))?;
        ensure!(
            !chain.is_empty(),
            "`tls.certificate`: there is no certificate in `{shown}`; it must be PEM, the server's own first, then \
             those between it and the authority"
        );
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            // Its own words may show what is in the file.
            let wrong = match error {
                rustls::pki_types::pem::Error::NoItemsFound => "there is no private key",
                _ => "there is no readable private key",
            };
            anyhow::anyhow!("`tls.key`: {wrong} in `{key_shown}`; it must be PEM, and not encrypted")
        })?;
        CertifiedKey::from_der(chain, key, provider).with_context(|| {
            format!("`tls.certificate` and `tls.key`: `{shown}` and `{key_shown}` do not belong together, or cannot be used")
        })
    }
}

fn read(key: &str, path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("`{key}`: cannot read `{}`", path.display()))
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.pair.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_is_whole() {
        let text = std::str::from_utf8(PLAIN).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head} {}", body.len());
    }
}
