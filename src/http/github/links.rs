//! The addresses that answers are full of.
//!
//! Clients use the links they are given, with their token, only where host and port are those they asked: so all of
//! them are made from the address of the request. They have GitHub Enterprise Server's form (`/api/v3`), except for a
//! request that came to the host `api.` or `uploads.` of this server, as a client of github.com sends it.

use std::{convert::Infallible, sync::Arc};

use aide::OperationInput;
use axum::extract::FromRequestParts;
use http::request::Parts;
use percent_encoding::utf8_percent_encode;

use crate::{
    http::{
        App,
        base_url::{BaseUrl, Front, peer},
        packages::UNRESERVED,
    },
    releases::{
        name::Repository,
        record::{Asset, Record},
    },
};

/// What links begin with.
#[derive(Debug, Clone)]
pub(super) struct Links {
    web: BaseUrl,
    api: Arc<str>,
    uploads: Arc<str>,
    service: bool,
}

impl FromRequestParts<App> for Links {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let (uri, headers, peer) = (&parts.uri, &parts.headers, peer(&parts.extensions));
        let front: &Front = &app.front;
        // A path below `/api/` is that of the server itself, be its own name `api.example.com`.
        let service = (!uri.path().starts_with("/api/")).then(|| front.behind_service(uri, headers, peer));
        Ok(match service.flatten() {
            Some(web) => {
                let api: Arc<str> = web.service("api").as_str().into();
                // Uploads too: recent clients take no other host than that of the API.
                Self { uploads: Arc::clone(&api), api, web, service: true }
            }
            None => Self::of(front.base_url(uri, headers, peer)),
        })
    }
}

impl OperationInput for Links {}

impl Links {
    /// Below the address of the server itself.
    pub(super) fn of(web: BaseUrl) -> Self {
        Self {
            api: web.join("/api/v3").into(),
            uploads: web.join("/api/uploads").into(),
            web,
            service: false,
        }
    }

    /// What the API's own links begin with.
    pub(super) fn api(&self) -> &str {
        &self.api
    }

    /// Where people go.
    pub(super) fn web(&self) -> &BaseUrl {
        &self.web
    }

    /// Whether the request came to a host of its own for the API.
    pub(super) fn is_service(&self) -> bool {
        self.service
    }

    /// A repository of the API.
    pub(super) fn repository(&self, repository: &str) -> String {
        format!("{}/repos/{repository}", self.api)
    }

    /// A release of the API.
    pub(super) fn release(&self, record: &Record) -> String {
        format!("{}/releases/{}", self.repository(&record.repository), record.id)
    }

    /// A template of RFC 6570: clients put the name into it, or cut it off at the brace.
    pub(super) fn upload(&self, record: &Record) -> String {
        let repository = &record.repository;
        format!("{}/repos/{repository}/releases/{}/assets{{?name,label}}", self.uploads, record.id)
    }

    /// An asset of the API.
    pub(super) fn asset(&self, record: &Record, asset: &Asset) -> String {
        format!("{}/releases/assets/{}", self.repository(&record.repository), asset.id)
    }

    /// The page of a repository's releases.
    pub(super) fn releases_page(&self, repository: &str) -> String {
        self.web.join(&format!("/{repository}/releases"))
    }

    /// The page of a release.
    pub(super) fn page(&self, record: &Record) -> String {
        format!("{}/tag/{}", self.releases_page(&record.repository), encoded(record.tag_name.as_str()))
    }

    /// Where an asset of a published release is downloaded.
    pub(super) fn download(&self, record: &Record, asset: &str) -> String {
        let releases = self.releases_page(&record.repository);
        format!("{releases}/download/{}/{}", encoded(record.tag_name.as_str()), encoded(asset))
    }

    /// The page of a repository.
    pub(super) fn repository_page(&self, repository: &Repository) -> String {
        self.web.join(&format!("/{repository}"))
    }
}

/// Percent-encoded whole, slashes too.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, &UNRESERVED).to_string()
}
