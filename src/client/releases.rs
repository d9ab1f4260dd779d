//! The same for the releases of a repository, by the API that GitHub has: upload, list, download, delete.
//!
//! An upload may be repeated at any point: a release that is there is continued, be it published or a draft of the tag,
//! an asset that has the same bytes is a success, and a draft is published only when it has all of its files.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    ACCEPT, Chain, Client, Context, Deserialize, Destination, Digest, NOT_OURS, Path, PathBuf, ProgressBar,
    Response, Result, SEGMENT, STALL, StatusCode, Url, bail, check_names, ensure, hashed, line, note,
    package_name, patiently, printable, utf8_percent_encode,
};

/// How many releases are asked for at a time; what GitHub allows at most.
const PAGE: usize = 100;

/// A release as the server describes it.
#[derive(Debug, Clone, Deserialize)]
struct Release {
    id: u64,
    tag_name: String,
    draft: bool,
    prerelease: bool,
    created_at: DateTime<Utc>,
    assets: Vec<Asset>,
}

#[derive(Debug, Clone, Deserialize)]
struct Asset {
    id: u64,
    name: String,
    size: u64,
    created_at: DateTime<Utc>,
    digest: Option<String>,
    browser_download_url: String,
}

/// What a new release is to be.
#[derive(Debug, Clone, Default)]
pub struct Publishing {
    /// Its notes, in Markdown.
    pub notes: Option<String>,
    /// Whether it stays a draft.
    pub draft: bool,
    /// Whether it can never be the latest.
    pub prerelease: bool,
}

/// A repository of a server.
pub struct Repository<'a> {
    client: &'a Client,
    /// `owner/name`.
    name: &'a str,
}

impl Client {
    /// The repository `owner/name`.
    pub fn repository<'a>(&'a self, name: &'a str) -> Result<Repository<'a>> {
        let known = crate::releases::name::Repository::parse(name).is_some();
        ensure!(known, "`{}` is no repository; one looks like `acme/app`", printable(name));
        Ok(Repository { client: self, name })
    }
}

impl Repository<'_> {
    /// Uploads `files` into the release of `tag`, `jobs` at a time. One that does not exist is created as a draft, and
    /// published when it has all of them.
    pub async fn upload(
        &self,
        tag: &str,
        files: &[PathBuf],
        publishing: &Publishing,
        overwrite: bool,
        jobs: usize,
    ) -> Result<()> {
        check_names(files)?;
        let release = match self.find(tag).await? {
            Some(release) => release,
            None => self.create(tag, publishing).await?,
        };
        let client = self.client;
        let upload =
            async |file: &Path, bar: &ProgressBar| self.upload_one(&release, file, overwrite, bar).await;
        client.upload_all(files, jobs, upload).await?;
        if release.draft && !publishing.draft {
            self.publish(&release).await.with_context(|| format!("cannot publish `{}`", printable(tag)))?;
        }
        Ok(())
    }

    async fn create(&self, tag: &str, publishing: &Publishing) -> Result<Release> {
        let fields = json!({
            "tag_name": tag,
            "body": publishing.notes,
            "draft": true,
            "prerelease": publishing.prerelease,
        });
        let url = self.url("/releases")?;
        // Tried again, it may make a second draft: an abandoned one does no harm.
        let answer = self.write(|| self.client.writes.post(url.clone()).json(&fields)).await;
        let answer = answer.with_context(|| format!("cannot create the release `{}`", printable(tag)))?;
        answer.json().await.context(NOT_OURS)
    }

    async fn publish(&self, release: &Release) -> Result<()> {
        let url = self.url(&format!("/releases/{}", release.id))?;
        let fields = json!({ "draft": false });
        self.write(|| self.client.writes.patch(url.clone()).json(&fields)).await.map(drop)
    }

    async fn upload_one(
        &self,
        release: &Release,
        file: &Path,
        overwrite: bool,
        bar: &ProgressBar,
    ) -> Result<(Digest, String)> {
        let name = package_name(file)?;
        let path = format!("/api/uploads/repos/{}/releases/{}/assets", self.name, release.id);
        let url = self.client.url(&path)?;
        let (digest, size) = hashed(file, name, bar).await?;
        let content_type = mime_guess::from_path(file).first_or_octet_stream();
        let request = || {
            let query = [("name", name), ("overwrite", if overwrite { "true" } else { "false" })];
            let request = self.client.writes.post(url.clone()).query(&query);
            request.header("content-type", content_type.as_ref())
        };
        let response = self.client.send(file, (digest, size), bar, StatusCode::CREATED, request).await?;
        let stored: Asset = response.json().await.context(NOT_OURS)?;
        Ok((digest, stored.browser_download_url))
    }

    /// The release that is published at a tag, or the newest draft of it.
    async fn find(&self, tag: &str) -> Result<Option<Release>> {
        let url = self.url(&format!("/releases/tags/{}", utf8_percent_encode(tag, SEGMENT)))?;
        if let Some(release) = self.get(&url).await? {
            return Ok(Some(release));
        }
        let mut releases = self.releases::<Release>().await?.into_iter();
        Ok(releases.find(|release| release.draft && release.tag_name == tag))
    }

    /// As [`Repository::find`], where it has to be there.
    async fn release(&self, tag: &str) -> Result<Release> {
        let release = self.find(tag).await?;
        release.with_context(|| format!("`{}` has no release `{}`", self.name, printable(tag)))
    }

    /// All of them, newest first; none where there is no such repository.
    async fn releases<T: for<'de> Deserialize<'de>>(&self) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for page in 1.. {
            let url = self.url(&format!("/releases?per_page={PAGE}&page={page}"))?;
            let releases: Vec<T> = self.get(&url).await?.unwrap_or_default();
            let last = releases.len() < PAGE;
            all.extend(releases);
            if last {
                break;
            }
        }
        Ok(all)
    }

    /// Prints the releases, newest first, or the assets of one.
    pub async fn list(&self, tag: Option<&str>, json: bool) -> Result<()> {
        if json {
            let shown = match tag {
                Some(tag) => {
                    let url = self.url(&format!("/releases/{}", self.release(tag).await?.id))?;
                    let release: Option<Value> = self.get(&url).await?;
                    release.with_context(|| format!("release `{}` was just deleted", printable(tag)))?
                }
                None => Value::Array(self.releases().await?),
            };
            return line(format_args!("{shown:#}"));
        }
        let mut rows = Vec::new();
        if let Some(tag) = tag {
            rows.push(format!("{:>10}  {:<16}  {:<12}  NAME", "SIZE", "CREATED (UTC)", "SHA-256"));
            rows.extend(self.release(tag).await?.assets.iter().map(|asset| {
                let digest = asset.digest.as_deref().and_then(|digest| digest.strip_prefix("sha256:"));
                format!(
                    "{:>10}  {}  {:<12}  {}",
                    bytesize::ByteSize(asset.size),
                    asset.created_at.format("%Y-%m-%d %H:%M"),
                    printable(digest.and_then(|digest| digest.get(..12)).unwrap_or("-")),
                    printable(&asset.name),
                )
            }));
        } else {
            rows.push(format!("{:>6}  {:<16}  {:<10}  TAG", "ASSETS", "CREATED (UTC)", "STATE"));
            rows.extend(self.releases::<Release>().await?.iter().map(|release| {
                let state = match (release.draft, release.prerelease) {
                    (true, _) => "draft",
                    (false, true) => "prerelease",
                    (false, false) => "published",
                };
                let created = release.created_at.format("%Y-%m-%d %H:%M");
                let tag = printable(&release.tag_name);
                format!("{:>6}  {created}  {state:<10}  {tag}", release.assets.len())
            }));
        }
        if rows.len() == 1 {
            note(format_args!("there is nothing yet"));
            return Ok(());
        }
        line(format_args!("{}", rows.join("\n")))
    }

    /// Downloads an asset of the release of `tag`, or of the latest one: the one called `name`, or the first whose name
    /// contains `text`.
    pub async fn download(
        &self,
        tag: Option<&str>,
        name: Option<&str>,
        text: &str,
        to: &Destination,
        force: bool,
    ) -> Result<()> {
        let url = match tag {
            Some(tag) => format!("/releases/tags/{}", utf8_percent_encode(tag, SEGMENT)),
            None => "/releases/latest".to_owned(),
        };
        let release: Option<Release> = self.get(&self.url(&url)?).await?;
        let release = release.with_context(|| match tag {
            Some(tag) => format!("`{}` has no published release `{}`", self.name, printable(tag)),
            None => format!("`{}` has no release yet", self.name),
        })?;
        let fits = |asset: &&Asset| match name {
            Some(name) => asset.name == name,
            None => asset.name.contains(text),
        };
        let asset = release.assets.iter().find(fits).with_context(|| {
            let wanted = printable(name.unwrap_or(text));
            format!("release `{}` has no asset `{wanted}`; see `list --tag`", printable(&release.tag_name))
        })?;
        let [tag, name] = [&release.tag_name, &asset.name].map(|text| utf8_percent_encode(text, SEGMENT));
        // Not the link in the answer: the token is for this server alone.
        let url = self.client.url(&format!("/{}/releases/download/{tag}/{name}", self.name))?;
        self.client.download_from(url, &asset.name, to, force).await
    }

    /// Deletes assets of a release, or without `names` the release, and says so.
    pub async fn delete(&self, tag: &str, names: &[String]) -> Result<()> {
        let release = self.release(tag).await?;
        if names.is_empty() {
            let url = self.url(&format!("/releases/{}", release.id))?;
            self.erase(&url).await.with_context(|| format!("cannot delete release `{}`", printable(tag)))?;
            return line(format_args!("deleted release `{}`", printable(tag)));
        }
        let mut failed = 0;
        for name in names {
            let done = async {
                let Some(asset) = release.assets.iter().find(|asset| asset.name == *name) else {
                    bail!("release `{}` has no such asset", printable(tag));
                };
                self.erase(&self.url(&format!("/releases/assets/{}", asset.id))?).await
            };
            match done.await.with_context(|| format!("cannot delete `{}`", printable(name))) {
                Ok(()) => line(format_args!("deleted `{}`", printable(name)))?,
                Err(error) => {
                    failed += 1;
                    note(format_args!("error: {}", Chain(&error)));
                }
            }
        }
        ensure!(failed == 0, "{failed} of {} assets could not be deleted", names.len());
        Ok(())
    }

    async fn erase(&self, url: &Url) -> Result<()> {
        let mut tries = 0;
        patiently(&ProgressBar::hidden(), async || {
            tries += 1;
            let response = self.client.writes.delete(url.clone()).timeout(STALL).send().await?;
            match response.status() {
                status if status.is_success() => Ok(()),
                // The try before this one may have been heard.
                StatusCode::NOT_FOUND if tries > 1 => Ok(()),
                _ => Err(self.client.setback(response).await),
            }
        })
        .await
    }

    /// Sends a small request until it succeeds.
    async fn write(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Response> {
        patiently(&ProgressBar::hidden(), async || {
            let response = request().timeout(STALL).send().await?;
            if response.status().is_success() {
                Ok(response)
            } else {
                Err(self.client.setback(response).await)
            }
        })
        .await
    }

    /// `None` where there is nothing.
    async fn get<T: for<'de> Deserialize<'de>>(&self, url: &Url) -> Result<Option<T>> {
        patiently(&ProgressBar::hidden(), async || {
            let response =
                self.client.reads.get(url.clone()).header(ACCEPT, "application/json").send().await?;
            match response.status() {
                StatusCode::NOT_FOUND => Ok(None),
                status if status.is_success() => Ok(Some(response.json().await.context(NOT_OURS)?)),
                _ => Err(self.client.setback(response).await),
            }
        })
        .await
        .with_context(|| format!("cannot read the releases of `{}`", self.name))
    }

    fn url(&self, path: &str) -> Result<Url> {
        self.client.url(&format!("/api/v3/repos/{}{path}", self.name))
    }
}
