//! All that a replica shows: packages, releases and their bytes, as lines that can be compared.
//!
//! Times and numbers are left out, order is kept. What contradicts itself (bytes of another digest, a package that is
//! listed and cannot be read) is a line that no consistent store gives.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use release_server::{
    digest::Digest, error::Result, packages::Packages, releases::Releases, storage::Content,
};

use crate::releases::repository;

/// What is shown, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Newest first.
    pub(crate) packages: Vec<String>,
    /// The releases, drafts too, and which is the latest.
    pub(crate) releases: Vec<String>,
}

impl View {
    pub(crate) async fn of(packages: &Packages, releases: &Releases) -> Self {
        Self { packages: of_packages(packages).await, releases: of_releases(releases).await }
    }

    /// Whether the digest of something is not known yet.
    pub(crate) fn is_unhashed(&self) -> bool {
        self.packages.iter().any(|line| line.ends_with(UNHASHED))
    }
}

const UNHASHED: &str = "without a digest";

async fn of_packages(packages: &Packages) -> Vec<String> {
    let listing = match packages.list().await {
        Ok(listing) => listing,
        Err(error) => return vec![format!("no list: {error:?}")],
    };
    let mut lines = Vec::new();
    for package in listing.packages() {
        let read = async {
            let opened = packages.open(&package.name).await?;
            let bytes = whole(opened.read(0..opened.size).await?).await?;
            Ok::<_, release_server::error::Error>((opened.sha256, bytes))
        };
        let said = match read.await {
            Err(error) => format!("cannot be read: {error:?}"),
            Ok((declared, _)) if declared != package.sha256 => "is opened with another digest".to_owned(),
            Ok((_, bytes)) if bytes.len() as u64 != package.size => format!("has {} bytes", bytes.len()),
            Ok((Some(digest), bytes)) if Digest::of(&bytes) != digest => "has other bytes".to_owned(),
            Ok((Some(digest), _)) => digest.to_string(),
            Ok((None, _)) => UNHASHED.to_owned(),
        };
        lines.push(format!("{} {} {said}", package.name, package.size));
    }
    lines
}

async fn of_releases(releases: &Releases) -> Vec<String> {
    let listing = match releases.list(&repository()).await {
        Ok(listing) => listing,
        Err(error) => return vec![format!("no list: {error:?}")],
    };
    let mut lines = Vec::new();
    for record in listing.all() {
        let state = match (record.is_published(), record.prerelease) {
            (false, _) => "draft",
            (true, true) => "prerelease",
            (true, false) => "release",
        };
        let found = releases.by_tag(&repository(), &record.tag_name).await;
        let by_tag = match (record.is_published(), found) {
            (true, Ok(found)) if found.id != record.id => " whose tag is another's".to_owned(),
            (true, Err(error)) => format!(" that its tag does not find: {error:?}"),
            _ => String::new(),
        };
        lines.push(format!("{state} {}{by_tag}: {:?} {:?}", record.tag_name, record.name, record.body));
        for asset in &record.assets {
            let read = async { whole(releases.read(&repository(), asset, 0..asset.size).await?).await };
            let said = match read.await {
                Err(error) => format!("cannot be read: {error:?}"),
                Ok(bytes) if bytes.len() as u64 != asset.size || Digest::of(&bytes) != asset.sha256 => {
                    "has other bytes".to_owned()
                }
                Ok(_) => asset.sha256.to_string(),
            };
            let (name, label, content_type) = (&asset.name, &asset.label, &asset.content_type);
            lines.push(format!("    {name} {label:?} {content_type} {} {said}", asset.size));
        }
    }
    lines.extend(listing.latest().map(|latest| format!("latest is {}", latest.tag_name)));
    lines
}

async fn whole(content: Content) -> Result<Bytes> {
    let joined = content.into_stream().try_fold(BytesMut::new(), async |mut all, block| {
        all.extend_from_slice(&block);
        Ok(all)
    });
    Ok(joined.await?.freeze())
}
