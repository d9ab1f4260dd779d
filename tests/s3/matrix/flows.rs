//! What the server does with its store: each flow with what is there before, and what it is asked.

use std::path::Path;

use axum::http::Method;
use bytes::Bytes;
use chrono::TimeDelta;
use futures_util::{FutureExt as _, future::BoxFuture};
use release_server::{
    audit::Actor,
    config::{self, Config},
    packages::Packages,
    releases::{
        Releases,
        change::{Edit, NewRelease},
        record::Record,
    },
};
use serde_json::json;

use super::Act;
use crate::{
    MIB,
    contract::{bytes, name},
    fake::Fake,
    releases::{me, repository, tag, upload},
    replica::Ask,
    view::View,
};

/// The package that most is about.
const APP: &str = "app-1.0.0.zip";

/// A size that goes in one piece, and one that needs two.
const SMALL: usize = 1000;
const LARGE: usize = 8 * MIB + 1000;

/// What is there while a flow is prepared, and who prepares it.
pub(super) struct Scene<'a> {
    pub(super) fake: &'a Fake,
    pub(super) packages: Packages,
    pub(super) releases: Releases,
}

/// What kind of a flow it is, as far as that matters to what is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    /// It makes a package that must not be there.
    Creates,
    /// It changes what is there.
    Changes,
    /// Done twice, it is there twice.
    Doubles,
    /// It changes nothing.
    Reads,
    /// It removes what nobody sees any more.
    Sweeps,
}

pub(super) struct Flow {
    pub(super) name: &'static str,
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// Prepares the store, and says what is to be done.
    pub(super) prepare: for<'a> fn(Scene<'a>) -> BoxFuture<'a, Act>,
    pub(super) nature: Nature,
}

impl Flow {
    pub(super) fn config(&self) -> Config {
        let settings = self.settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
        config::load_from(settings, Path::new("/nonexistent")).unwrap().config
    }

    /// Whether this is what is there after the flow.
    pub(super) fn is_alike(&self, view: &View, after: &View) -> bool {
        let mut view = view.clone();
        if self.nature == Nature::Doubles {
            view.releases.dedup();
        }
        view == *after
    }
}

const DEFAULTS: &[(&str, &str)] = &[];
const TWO_KEPT: &[(&str, &str)] = &[("MAX_PACKAGES", "1"), ("RETENTION__RELEASES", "1")];
const UNCACHED: &[(&str, &str)] = &[("CACHE__TOTAL_BYTES", "0")];

/// A row of the table below: its nature, name and settings, and how the store is prepared for it.
macro_rules! flow {
    ($nature:ident, $name:literal, $settings:expr, |$scene:pat_param| $prepare:expr) => {
        Flow { name: $name, settings: $settings, prepare: |$scene| $prepare.boxed(), nature: Nature::$nature }
    };
}

/// The slow ones first: they are taken in this order.
pub(super) const FLOWS: &[Flow] = &[
    flow!(Creates, "upload, in parts", DEFAULTS, |_| async { put("", LARGE, Some(409)) }),
    flow!(Changes, "overwrite, in parts", DEFAULTS, |scene| async move {
        scene.package(APP, 1, SMALL).await;
        put("?overwrite=true", LARGE, None)
    }),
    flow!(Changes, "asset upload, in parts", DEFAULTS, |scene| async move {
        let draft = scene.draft("v1").await;
        asset(&draft, "app.zip", LARGE)
    }),
    flow!(Changes, "start", DEFAULTS, |_| async { Act::Start }),
    flow!(Sweeps, "sweep of releases", TWO_KEPT, |scene| async move {
        for text in ["v1", "v2"] {
            let draft = scene.draft(text).await;
            scene.asset(&draft, "app.zip", 1).await;
            scene.publish(&draft).await;
        }
        Act::Sweep
    }),
    flow!(Sweeps, "cleaning up of releases", DEFAULTS, |scene| async move {
        let (kept, gone) = (scene.draft("v1").await, scene.draft("v2").await);
        scene.asset(&kept, "app.zip", 1).await;
        scene.asset(&kept, "old.zip", 2).await;
        scene.asset(&gone, "app.zip", 3).await;
        let kept = scene.publish(&kept).await;
        let old = kept.asset("old.zip").unwrap().id;
        scene.releases.delete_asset(&repository(), old, &me()).await.unwrap();
        // What a crash would leave: the bytes are still there.
        let bytes = scene.fake.contents();
        scene.releases.delete(&repository(), gone.id, &me()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        for (key, object) in bytes.into_iter().filter(|(key, _)| key.contains("/files/")) {
            scene.fake.put(&key, object.body);
            scene.fake.age(&key, TimeDelta::hours(25));
        }
        for key in scene.fake.keys("a/prefix/repos/acme/app/releases/") {
            super::age_record(scene.fake, &key);
        }
        Act::Sweep
    }),
    flow!(Sweeps, "sweep of packages", TWO_KEPT, |scene| async move {
        scene.package(APP, 1, SMALL).await;
        scene.package("app-2.0.0.zip", 2, SMALL).await;
        Act::Sweep
    }),
    flow!(Creates, "upload", DEFAULTS, |_| async { put("", SMALL, Some(409)) }),
    flow!(Creates, "upload, as a form", DEFAULTS, |_| async {
        let head =
            format!("--limit\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{APP}\"\r\n\r\n");
        let body = [head.as_bytes(), &bytes(2, SMALL), b"\r\n--limit--\r\n"].concat();
        let form = Ask::new(Method::POST, "/upload", body);
        Act::Ask(form.with("content-type", "multipart/form-data; boundary=limit"), Some(409))
    }),
    flow!(Changes, "overwrite", DEFAULTS, |scene| async move {
        scene.package(APP, 1, SMALL).await;
        put("?overwrite=true", SMALL, None)
    }),
    flow!(Changes, "overwrite, of the same bytes", DEFAULTS, |scene| async move {
        scene.package(APP, 2, SMALL).await;
        put("?overwrite=true", SMALL, None)
    }),
    flow!(Changes, "delete", DEFAULTS, |scene| async move {
        scene.package(APP, 1, SMALL).await;
        Act::Ask(Ask::new(Method::DELETE, format!("/assets/{APP}"), ""), Some(404))
    }),
    flow!(Changes, "hasher", DEFAULTS, |scene| async move {
        scene.package("app-2.0.0.zip", 2, SMALL).await;
        let key = format!("a/prefix/{APP}");
        scene.fake.put(&key, bytes(1, SMALL));
        scene.fake.age(&key, TimeDelta::hours(1));
        Act::Hash
    }),
    flow!(Reads, "list", DEFAULTS, |scene| scene.then_get("/packages")),
    flow!(Reads, "latest", DEFAULTS, |scene| scene.then_get("/latest")),
    flow!(Reads, "readiness", DEFAULTS, |scene| scene.then_get("/readyz")),
    flow!(Reads, "download", UNCACHED, |scene| scene.then_get("/assets/app-1.0.0.zip")),
    flow!(Reads, "download, for the cache", DEFAULTS, |scene| scene.then_get("/assets/app-1.0.0.zip")),
    flow!(Reads, "download of a range", UNCACHED, |scene| async move {
        match scene.then_get("/assets/app-1.0.0.zip").await {
            Act::Ask(ask, again) => Act::Ask(ask.with("range", "bytes=100-899"), again),
            act => act,
        }
    }),
    flow!(Doubles, "draft", DEFAULTS, |_| async {
        Act::Ask(send("", Method::POST, &json!({"tag_name": "v1", "draft": true})), None)
    }),
    flow!(Doubles, "release", DEFAULTS, |scene| async move {
        scene.release("v1").await;
        Act::Ask(send("", Method::POST, &json!({"tag_name": "v2"})), Some(422))
    }),
    flow!(Changes, "asset upload", DEFAULTS, |scene| async move {
        let draft = scene.draft("v1").await;
        asset(&draft, "app.zip", SMALL)
    }),
    flow!(Changes, "publish", DEFAULTS, |scene| async move {
        scene.release("v1").await;
        let draft = scene.draft("v2").await;
        scene.asset(&draft, "app.zip", 1).await;
        patch(&draft, &json!({"draft": false}))
    }),
    flow!(Changes, "publish, at a tag that was another's", DEFAULTS, |scene| async move {
        let first = scene.release("v1").await;
        let retag = Edit { tag: Some(tag("v0")), ..Edit::default() };
        scene.releases.edit(&repository(), first.id, retag, &me()).await.unwrap();
        let draft = scene.draft("v1").await;
        patch(&draft, &json!({"draft": false}))
    }),
    flow!(Changes, "notes", DEFAULTS, |scene| async move {
        let release = scene.release("v1").await;
        patch(&release, &json!({"body": "what is new"}))
    }),
    flow!(Changes, "re-tag", DEFAULTS, |scene| async move {
        let release = scene.release("v1").await;
        patch(&release, &json!({"tag_name": "v2"}))
    }),
    flow!(Changes, "unpublish", DEFAULTS, |scene| async move {
        scene.release("v1").await;
        let release = scene.release("v2").await;
        patch(&release, &json!({"draft": true}))
    }),
    flow!(Changes, "make latest", DEFAULTS, |scene| async move {
        let release = scene.release("v1").await;
        scene.release("v2").await;
        patch(&release, &json!({"make_latest": "true"}))
    }),
    flow!(Changes, "asset replacement", DEFAULTS, |scene| async move {
        let draft = scene.draft("v1").await;
        scene.asset(&draft, "app.zip", 1).await;
        scene.publish(&draft).await;
        asset(&draft, "app.zip&overwrite=true", SMALL)
    }),
    flow!(Changes, "asset rename", DEFAULTS, |scene| async move {
        let path = scene.published_asset().await;
        Act::Ask(send(&path, Method::PATCH, &json!({"name": "other.zip"})), None)
    }),
    flow!(Changes, "asset delete", DEFAULTS, |scene| async move {
        let path = scene.published_asset().await;
        Act::Ask(send(&path, Method::DELETE, &json!({})), Some(404))
    }),
    flow!(Changes, "release delete", DEFAULTS, |scene| async move {
        let release = scene.release("v1").await;
        scene.asset(&release, "app.zip", 1).await;
        Act::Ask(send(&format!("/{}", release.id), Method::DELETE, &json!({})), Some(404))
    }),
    flow!(Reads, "releases", DEFAULTS, |scene| scene.then_get_release("")),
    flow!(Reads, "latest release", DEFAULTS, |scene| scene.then_get_release("/latest")),
    flow!(Reads, "release by tag", DEFAULTS, |scene| scene.then_get_release("/tags/v1")),
    flow!(Reads, "asset download, for the cache", DEFAULTS, |scene| async move {
        scene.published_asset().await;
        Act::Ask(Ask::get("/acme/app/releases/download/v1/app.zip"), None)
    }),
    flow!(Reads, "asset download", UNCACHED, |scene| async move {
        scene.published_asset().await;
        Act::Ask(Ask::get("/acme/app/releases/download/v1/app.zip"), None)
    }),
    flow!(Reads, "asset download of a range", UNCACHED, |scene| async move {
        scene.published_asset().await;
        let ask = Ask::get("/acme/app/releases/download/v1/app.zip");
        Act::Ask(ask.with("range", "bytes=100-899"), None)
    }),
];

impl Scene<'_> {
    async fn package(&self, text: &str, seed: usize, size: usize) {
        let bytes: Bytes = bytes(seed, size);
        let upload = self.packages.upload(name(text), false, Some(size as u64));
        let mut upload = upload.await.unwrap();
        upload.write(bytes).await.unwrap();
        upload.commit(None, Actor::default()).await.unwrap();
    }

    async fn draft(&self, text: &str) -> Record {
        let new = NewRelease { draft: true, ..NewRelease::new(tag(text)) };
        Record::clone(&*self.releases.create(&repository(), new, &me()).await.unwrap())
    }

    async fn asset(&self, release: &Record, name: &str, seed: usize) {
        upload(&self.releases, release, name, bytes(seed, SMALL), false).await.unwrap();
    }

    async fn publish(&self, draft: &Record) -> Record {
        Record::clone(&*self.releases.edit(&repository(), draft.id, Edit::publish(), &me()).await.unwrap())
    }

    async fn release(&self, text: &str) -> Record {
        let draft = self.draft(text).await;
        self.publish(&draft).await
    }

    /// A release with an asset; where that is, below the releases.
    async fn published_asset(&self) -> String {
        let draft = self.draft("v1").await;
        self.asset(&draft, "app.zip", 1).await;
        let release = self.publish(&draft).await;
        format!("/assets/{}", release.asset("app.zip").unwrap().id)
    }

    async fn then_get(self, path: &str) -> Act {
        let path = path.to_owned();
        self.package(APP, 1, SMALL).await;
        self.package("app-2.0.0.zip", 2, SMALL).await;
        Act::Ask(Ask::get(path), None)
    }

    async fn then_get_release(self, path: &str) -> Act {
        let path = format!("/api/v3/repos/acme/app/releases{path}");
        self.published_asset().await;
        self.release("v2").await;
        Act::Ask(Ask::get(path), None)
    }
}

fn put(query: &str, size: usize, already: Option<u16>) -> Act {
    Act::Ask(Ask::new(Method::PUT, format!("/assets/{APP}{query}"), bytes(2, size)), already)
}

fn send(path: &str, method: Method, fields: &serde_json::Value) -> Ask {
    Ask::new(method, format!("/api/v3/repos/acme/app/releases{path}"), fields.to_string())
}

fn patch(release: &Record, fields: &serde_json::Value) -> Act {
    Act::Ask(send(&format!("/{}", release.id), Method::PATCH, fields), None)
}

fn asset(release: &Record, name: &str, size: usize) -> Act {
    let path = format!("/api/uploads/repos/acme/app/releases/{}/assets?name={name}", release.id);
    let ask = Ask::new(Method::POST, path, bytes(7, size));
    Act::Ask(ask.with("content-type", "application/zip"), None)
}
