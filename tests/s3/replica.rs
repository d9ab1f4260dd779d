//! A whole server over a bucket, called as a function: what it is asked and what it answers.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use release_server::{
    auth::Authenticator,
    config::{self, Config},
    http::{self, serve::Draining},
    packages::Packages,
    releases::Releases,
    storage::Storage,
};
use tower::ServiceExt as _;

/// May do everything.
const TOKEN: &str = "correct-horse";

/// A replica that remembers nothing of the others.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) packages: Packages,
    pub(crate) releases: Releases,
    config: Arc<Config>,
    /// Made when it is asked for the first time.
    app: OnceLock<Router>,
}

impl Replica {
    pub(crate) fn new(storage: &Storage, settings: &[(&str, &str)]) -> Self {
        let variables = settings.iter().chain(&[("AUTH_TOKEN", TOKEN)]);
        let variables = variables.map(|(name, value)| ((*name).to_owned(), OsString::from(*value)));
        let config = config::load_from(variables, Path::new("/nonexistent")).unwrap().config;
        let packages = Packages::new(storage.clone(), &config);
        let releases = Releases::new(packages.storage().clone(), &config);
        Self { packages, releases, config: Arc::new(config), app: OnceLock::new() }
    }

    fn app(&self) -> Router {
        let make = || {
            let auth = Authenticator::new(self.config.auth_token.as_ref(), &self.config.auth).unwrap();
            let (packages, releases) = (self.packages.clone(), self.releases.clone());
            let local = SocketAddr::from(([127, 0, 0, 1], 8000));
            http::app(packages, releases, Arc::new(auth), &self.config, local, Draining::default())
        };
        self.app.get_or_init(make).clone()
    }

    pub(crate) async fn ask(&self, ask: &Ask) -> Answer {
        let mut request = Request::builder().method(ask.method.clone()).uri(&ask.path);
        request = request.header(header::AUTHORIZATION, format!("Bearer {TOKEN}"));
        request = request.header(header::CONTENT_LENGTH, ask.body.len());
        for (name, value) in &ask.headers {
            request = request.header(*name, *value);
        }
        let answer = self.app().oneshot(request.body(Body::from(ask.body.clone())).unwrap()).await;
        let (head, mut body) = answer.unwrap().into_parts();
        let (mut received, mut whole) = (BytesMut::new(), true);
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                whole = false;
                break;
            };
            received.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        let (status, headers) = (head.status.as_u16(), head.headers);
        Answer { status, headers, body: received.freeze(), whole }
    }
}

/// A request, which may be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    method: Method,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Bytes,
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, Bytes::new())
    }

    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }
}

/// An answer, or as much of it as came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether it did not break off.
    pub(crate) whole: bool,
}
