//! What can be done to a server, what that makes of its contents, and what its contents are.
//!
//! A [`World`] is everything that callers can see. A [`Step`] is a request, and says what it makes of a world; so after
//! a crash the world must be the one before the step or the one after it, and nothing else.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::process::{TOKEN, body, repr_digest, sha256};

pub(crate) const REPO: &str = "acme/app";

/// A request that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Put {
        name: &'static str,
        seed: u64,
        size: usize,
        overwrite: bool,
    },
    Delete(&'static str),
    /// A draft of this tag.
    Draft(&'static str),
    /// A release of this tag, published at once.
    Release(&'static str),
    /// An asset of the release of the tag; `replace` one of the name.
    Attach {
        tag: &'static str,
        name: &'static str,
        seed: u64,
        size: usize,
        replace: bool,
    },
    Detach {
        tag: &'static str,
        name: &'static str,
    },
    Publish(&'static str),
    Notes {
        tag: &'static str,
        text: &'static str,
    },
    Retag {
        tag: &'static str,
        to: &'static str,
    },
    Withdraw(&'static str),
}

/// A release as callers see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Release {
    pub(crate) tag: String,
    pub(crate) draft: bool,
    pub(crate) notes: String,
    /// The digest of each.
    pub(crate) assets: BTreeMap<String, String>,
}

/// Everything that callers see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct World {
    /// Name and digest, newest first.
    pub(crate) packages: Vec<(String, String)>,
    /// In order of their tags.
    pub(crate) releases: Vec<Release>,
    /// The tag of the latest release.
    pub(crate) latest: Option<String>,
    /// The tags that were published, in their order; not seen, only remembered.
    published: Vec<String>,
}

impl World {
    /// Whether callers see the same.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        self.packages == other.packages && self.releases == other.releases && self.latest == other.latest
    }

    /// The worlds that a step which was not answered may have left.
    pub(crate) fn doubtful(&self, step: &Step) -> Vec<Self> {
        vec![self.clone(), self.after(step)]
    }

    /// What the step makes of it; the same world if it does not apply.
    pub(crate) fn after(&self, step: &Step) -> Self {
        let mut next = self.clone();
        match *step {
            Step::Put { name, seed, size, overwrite } => {
                if overwrite || !next.packages.iter().any(|package| package.0 == name) {
                    next.packages.retain(|package| package.0 != name);
                    next.packages.insert(0, (name.into(), sha256(&body(seed, size))));
                }
            }
            Step::Delete(name) => next.packages.retain(|package| package.0 != name),
            Step::Draft(tag) => {
                next.releases.push(Release { tag: tag.into(), draft: true, ..Release::default() });
            }
            Step::Release(tag) => {
                if !next.releases.iter().any(|release| release.tag == tag && !release.draft) {
                    next.releases.push(Release { tag: tag.into(), ..Release::default() });
                    next.published.push(tag.into());
                }
            }
            Step::Attach { tag, name, seed, size, replace } => next.change(tag, |release| {
                let digest = sha256(&body(seed, size));
                if replace || !release.assets.contains_key(name) {
                    release.assets.insert(name.into(), digest);
                }
            }),
            Step::Detach { tag, name } => next.change(tag, |release| {
                release.assets.remove(name);
            }),
            Step::Publish(tag) => {
                if next.releases.iter().any(|release| release.tag == tag && release.draft) {
                    next.change(tag, |release| release.draft = false);
                    next.published.push(tag.into());
                }
            }
            Step::Notes { tag, text } => next.change(tag, |release| release.notes = text.into()),
            Step::Retag { tag, to } => {
                next.change(tag, |release| release.tag = to.into());
                next.published
                    .iter_mut()
                    .filter(|published| *published == tag)
                    .for_each(|tag| *tag = to.into());
            }
            Step::Withdraw(tag) => {
                next.releases.retain(|release| release.tag != tag);
                next.published.retain(|published| published != tag);
            }
        }
        next.releases.sort();
        next.latest = next.published.last().cloned();
        next
    }

    fn change(&mut self, tag: &str, change: impl FnOnce(&mut Release)) {
        if let Some(release) = self.releases.iter_mut().find(|release| release.tag == tag) {
            change(release);
        }
    }
}

/// What came of asking.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// A status and what was said.
    Said(u16, Value),
    /// The connection broke before the answer was whole.
    Broken(#[expect(dead_code, reason = "shown where a test fails")] String),
    /// Nothing came in time.
    Hung,
}

impl Outcome {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Said(200..=299, _))
    }
}

/// A client that says what the server did: a retry of its own would hide that. To be shared, for it is slow to make.
pub(crate) fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().retry(reqwest::retry::never());
    client.timeout(Duration::from_secs(20)).build().unwrap()
}

/// Asks one server.
#[derive(Clone)]
pub(crate) struct Asker {
    client: reqwest::Client,
    at: SocketAddr,
}

impl Asker {
    pub(crate) fn new(client: &reqwest::Client, at: SocketAddr) -> Self {
        Self { client: client.clone(), at }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.at)).bearer_auth(TOKEN)
    }

    async fn ask(&self, request: RequestBuilder) -> Outcome {
        let answered = async {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            let text = answer.text().await?;
            Ok::<_, reqwest::Error>(Outcome::Said(status, serde_json::from_str(&text).unwrap_or(json!(text))))
        };
        match answered.await {
            Ok(outcome) => outcome,
            Err(error) if error.is_timeout() => Outcome::Hung,
            Err(error) => Outcome::Broken(format!("{error:?}")),
        }
    }

    async fn read(&self, path: &str) -> Result<(u16, Option<String>, Bytes), String> {
        let request = self.request(Method::GET, path).header("accept", "application/octet-stream");
        let answer = request.send().await.map_err(|error| format!("{path}: {error:?}"))?;
        let declared = answer.headers().get("repr-digest").map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        Ok((status, declared, answer.bytes().await.map_err(|error| format!("{path}: {error:?}"))?))
    }

    async fn json(&self, path: &str) -> Result<Value, String> {
        match self.ask(self.request(Method::GET, path)).await {
            Outcome::Said(200, value) => Ok(value),
            outcome => Err(format!("{path}: {outcome:?}")),
        }
    }

    async fn releases(&self) -> Result<Vec<Value>, String> {
        match self.json(&format!("/api/v3/repos/{REPO}/releases?per_page=100")).await? {
            Value::Array(releases) => Ok(releases),
            other => Err(format!("no list of releases: {other}")),
        }
    }

    /// The release of this tag, as the API has it; one that is published before a draft.
    pub(crate) async fn find(&self, tag: &str) -> Option<Value> {
        let mut found: Vec<Value> = self.releases().await.ok()?;
        found.retain(|release| release["tag_name"] == tag);
        found.sort_by_key(|release| release["draft"] == true);
        found.into_iter().next()
    }

    /// A request that does the step; `None` if what it is about is not there. Asks where that is, so it is to be made
    /// before the system calls are counted.
    pub(crate) async fn prepare(&self, step: &Step) -> Option<RequestBuilder> {
        let release = async |tag: &str| -> Option<u64> { self.find(tag).await?["id"].as_u64() };
        let releases = format!("/api/v3/repos/{REPO}/releases");
        Some(match *step {
            Step::Put { name, seed, size, overwrite } => self
                .request(Method::PUT, &format!("/assets/{name}?overwrite={overwrite}"))
                .body(body(seed, size)),
            Step::Delete(name) => self.request(Method::DELETE, &format!("/assets/{name}")),
            Step::Draft(tag) => {
                self.request(Method::POST, &releases).json(&json!({"tag_name": tag, "draft": true}))
            }
            Step::Release(tag) => self.request(Method::POST, &releases).json(&json!({"tag_name": tag})),
            Step::Attach { tag, name, seed, size, replace } => {
                let id = release(tag).await?;
                let path =
                    format!("/api/uploads/repos/{REPO}/releases/{id}/assets?name={name}&overwrite={replace}");
                self.request(Method::POST, &path).body(body(seed, size))
            }
            Step::Detach { tag, name } => {
                let release = self.find(tag).await?;
                let mut assets = release["assets"].as_array()?.iter();
                let id = assets.find(|asset| asset["name"] == name)?["id"].as_u64()?;
                self.request(Method::DELETE, &format!("{releases}/assets/{id}"))
            }
            Step::Publish(tag) => self
                .request(Method::PATCH, &format!("{releases}/{}", release(tag).await?))
                .json(&json!({"draft": false})),
            Step::Notes { tag, text } => self
                .request(Method::PATCH, &format!("{releases}/{}", release(tag).await?))
                .json(&json!({"body": text})),
            Step::Retag { tag, to } => self
                .request(Method::PATCH, &format!("{releases}/{}", release(tag).await?))
                .json(&json!({"tag_name": to})),
            Step::Withdraw(tag) => {
                self.request(Method::DELETE, &format!("{releases}/{}", release(tag).await?))
            }
        })
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Outcome {
        self.ask(request).await
    }

    /// Does a step that must succeed.
    pub(crate) async fn perform(&self, step: &Step) {
        let request =
            self.prepare(step).await.unwrap_or_else(|| panic!("{step:?}: there is nothing to do it to"));
        let outcome = self.send(request).await;
        assert!(outcome.is_done(), "{step:?}: {outcome:?}");
    }

    /// Makes the same request again, of a step that may have happened: it has, then.
    pub(crate) async fn repeat(
        &self,
        request: RequestBuilder,
        step: &Step,
        before: &World,
    ) -> Result<(), String> {
        let (client, request) = request.build_split();
        let mut request = request.map_err(|error| error.to_string())?;
        request.url_mut().set_port(Some(self.at.port())).map_err(|()| "a URL without a port")?;
        let wanted = before.after(step);
        let outcome = self.send(RequestBuilder::from_parts(client, request)).await;
        // It has happened already.
        let refused_rightly = match (&outcome, step) {
            (Outcome::Said(409, _), Step::Put { overwrite: false, .. })
            | (Outcome::Said(404, _), Step::Delete(_) | Step::Withdraw(_) | Step::Detach { .. })
            | (Outcome::Said(422, _), Step::Release(_)) => before.looks_like(&wanted),
            _ => false,
        };
        if !outcome.is_done() && !refused_rightly {
            return Err(format!("again, {step:?}: {outcome:?}"));
        }
        let (found, _) = self.look().await?;
        if found.looks_like(&wanted) {
            return Ok(());
        }
        Err(format!("again, {step:?}: there is {found:#?}\ninstead of {wanted:#?}"))
    }

    /// Everything callers see, read in full; and the packages that have no digest yet. `Err`: something is broken, or
    /// is not what is said of it.
    pub(crate) async fn look(&self) -> Result<(World, Vec<String>), String> {
        let mut world = World::default();
        let mut unhashed = Vec::new();
        for package in self.json("/packages").await?.as_array().ok_or("no list of packages")? {
            let name = package["name"].as_str().ok_or("a package has no name")?;
            let (status, declared, bytes) = self.read(&format!("/assets/{name}")).await?;
            let digest = sha256(&bytes);
            if status != 200 || package["size"].as_u64() != Some(bytes.len() as u64) {
                return Err(format!("`{name}`: {status}, {} bytes, listed as {package}", bytes.len()));
            }
            match package["sha256"].as_str() {
                None => unhashed.push(name.to_owned()),
                Some(listed) if listed == digest => {}
                Some(_) => return Err(format!("`{name}` has other bytes than its digest says: {package}")),
            }
            if declared.is_some_and(|declared| declared != repr_digest(&bytes)) {
                return Err(format!("`{name}` has other bytes than `Repr-Digest` says"));
            }
            world.packages.push((name.to_owned(), digest));
        }
        for release in self.releases().await? {
            let text = |field: &str| release[field].as_str().unwrap_or_default().to_owned();
            let mut assets = BTreeMap::new();
            for asset in release["assets"].as_array().into_iter().flatten() {
                let path = format!("/api/v3/repos/{REPO}/releases/assets/{}", asset["id"]);
                let (status, _, bytes) = self.read(&path).await?;
                let digest = sha256(&bytes);
                if status != 200 || asset["digest"] != format!("sha256:{digest}") {
                    return Err(format!(
                        "{status}, {} bytes of digest {digest}, listed as {asset}",
                        bytes.len()
                    ));
                }
                let name = asset["name"].as_str().unwrap_or_default().to_owned();
                assets.insert(name, digest);
            }
            let draft = release["draft"] == true;
            world.releases.push(Release { tag: text("tag_name"), draft, notes: text("body"), assets });
        }
        world.releases.sort();
        world.latest =
            match self.ask(self.request(Method::GET, &format!("/api/v3/repos/{REPO}/releases/latest"))).await
            {
                Outcome::Said(200, latest) => latest["tag_name"].as_str().map(str::to_owned),
                Outcome::Said(404, _) => None,
                outcome => return Err(format!("the latest release: {outcome:?}")),
            };
        for release in world.releases.iter().filter(|release| !release.draft) {
            let found = self.json(&format!("/api/v3/repos/{REPO}/releases/tags/{}", release.tag)).await?;
            if found["tag_name"] != release.tag.as_str() {
                return Err(format!("the tag `{}` leads to {found}", release.tag));
            }
        }
        Ok((world, unhashed))
    }
}

/// The names in the folder of staged files.
pub(crate) fn staged(root: &Path) -> Vec<String> {
    super::process::control(root, "stage")
}
