//! What can be asked: the part of GitHub's schema that has to do with releases, under GitHub's names.

#![expect(clippy::unused_async, reason = "the executor wants every resolver to be asynchronous")]

use std::{
    cmp::Ordering,
    sync::{Arc, LazyLock},
};

use async_graphql::{
    Context, EmptyMutation, EmptySubscription, Enum, Error, ErrorExtensions as _, ID, InputObject, Object,
    Scalar, ScalarType, Schema, SimpleObject, Value,
    connection::{Connection, Edge, OpaqueCursor},
};
use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;

use super::{
    super::{
        access::{Reading, look_for_nothing},
        json::{node_id, number, time},
    },
    Asking,
};
use crate::{
    auth::Denied,
    error,
    http::pages,
    releases::{
        listing::Listing,
        name::{Repository, TagName},
        record::{Asset, Record},
    },
};

/// The deepest nesting; that of the introspection queries of GraphQL's tools is 14.
const DEEPEST: usize = 20;

/// The most fields of an answer, counted before it is made: 100 releases of a dozen fields are 1,200.
const MOST_FIELDS: usize = 50_000;

/// What a repository counts for beside its fields, because each is a question to the store.
const REPOSITORY: usize = 5_000;

/// The most rows of a page.
const MOST_ROWS: i32 = 100;

pub(super) static SCHEMA: LazyLock<Schema<Query, EmptyMutation, EmptySubscription>> = LazyLock::new(|| {
    Schema::build(Query, EmptyMutation, EmptySubscription)
        .limit_depth(DEEPEST)
        .limit_recursive_depth(DEEPEST)
        .limit_complexity(MOST_FIELDS)
        .limit_directives(8)
        .finish()
});

type Result<T> = std::result::Result<T, Error>;

fn asking<'a>(ctx: &Context<'a>) -> Result<&'a Asking> {
    ctx.data::<Arc<Asking>>().map(|asking| &**asking)
}

/// An error that a client can tell from others.
fn typed(kind: &'static str, message: String) -> Error {
    Error::new(message).extend_with(|_, extensions| extensions.set("type", kind))
}

/// What is asked of the store; what is not there is `None`.
fn found<T>(ctx: &Context<'_>, result: error::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error::Error::NotFound(_)) => Ok(None),
        Err(error) => Err(asking(ctx)?.refuse(error)),
    }
}

pub(super) struct Query;

/// What can be asked.
#[Object]
impl Query {
    /// A repository.
    #[graphql(complexity = "REPOSITORY + child_complexity.min(MOST_FIELDS)")]
    async fn repository(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Its owner.")] owner: String,
        #[graphql(desc = "Its name.")] name: String,
        #[graphql(default = true, desc = "Repositories are not renamed here.")] follow_renames: bool,
    ) -> Result<Option<RepositoryNode>> {
        let _ = follow_renames;
        let missing = || {
            let message = format!("Could not resolve to a Repository with the name '{owner}/{name}'.");
            typed("NOT_FOUND", message)
        };
        let asking = asking(ctx)?;
        let repository = Repository::new(&owner, &name).ok_or_else(missing)?;
        let visitor = match asking.app.auth.visit(asking.authorization.as_ref(), repository.key()).await {
            Ok(visitor) => visitor,
            Err(Denied::Hidden) => {
                look_for_nothing(&asking.app).await.map_err(|error| asking.refuse(error))?;
                return Err(missing());
            }
            Err(denied) => return Err(asking.refuse(denied)),
        };
        let fixed = asking.app.package_repository.as_ref() == Some(&repository);
        let node = RepositoryNode { reading: Reading { repository, visitor }, listing: OnceCell::new() };
        if !fixed && !node.reading.visitor.writes {
            node.reading.check_any(node.listing(ctx).await?).map_err(|_| missing())?;
        }
        Ok(Some(node))
    }

    /// Who is calling.
    async fn viewer(&self, ctx: &Context<'_>) -> Result<User> {
        let asking = asking(ctx)?;
        let caller = asking.app.auth.authenticate(asking.authorization.as_ref()).await;
        caller.map(|caller| User { login: caller.name }).map_err(|denied| asking.refuse(denied))
    }
}

/// The name of a token.
struct User {
    login: String,
}

/// Who did something: the name of a token.
#[Object]
impl User {
    /// An opaque text.
    async fn id(&self) -> ID {
        ID(node_id("User", number(&self.login)))
    }

    /// Made of the name.
    async fn database_id(&self) -> u64 {
        number(&self.login)
    }

    /// The name of the token.
    async fn login(&self) -> &str {
        &self.login
    }

    /// The same.
    async fn name(&self) -> &str {
        &self.login
    }

    /// The server's page: there are none of users.
    async fn url(&self, ctx: &Context<'_>) -> Result<Uri> {
        Ok(Uri(asking(ctx)?.links.web().to_string()))
    }
}

struct RepositoryNode {
    reading: Reading,
    listing: OnceCell<Arc<Listing>>,
}

impl RepositoryNode {
    /// One listing for all that is asked of it.
    async fn listing(&self, ctx: &Context<'_>) -> Result<&Listing> {
        let asking = asking(ctx)?;
        let list = || asking.app.releases.list(&self.reading.repository);
        let listing = self.listing.get_or_try_init(list).await;
        listing.map(|listing| &**listing).map_err(|error| asking.refuse(error))
    }

    /// What is published at a tag.
    async fn published(&self, ctx: &Context<'_>, tag: &TagName) -> Result<Option<Arc<Record>>> {
        found(ctx, asking(ctx)?.app.releases.by_tag(&self.reading.repository, tag).await)
    }

    async fn release_node(&self, ctx: &Context<'_>, record: Arc<Record>) -> Result<ReleaseNode> {
        Ok(ReleaseNode { is_latest: self.listing(ctx).await?.is_latest(record.id), record })
    }
}

/// A repository.
#[Object(name = "Repository")]
impl RepositoryNode {
    /// An opaque text.
    async fn id(&self) -> ID {
        ID(node_id("Repository", number(self.reading.repository.key())))
    }

    /// Made of the name.
    async fn database_id(&self) -> u64 {
        number(self.reading.repository.key())
    }

    /// Without its owner.
    async fn name(&self) -> &str {
        self.reading.repository.name()
    }

    /// With its owner.
    async fn name_with_owner(&self) -> &str {
        self.reading.repository.as_str()
    }

    /// Who owns it.
    async fn owner(&self) -> User {
        User { login: self.reading.repository.owner().to_owned() }
    }

    /// Its page.
    async fn url(&self, ctx: &Context<'_>) -> Result<Uri> {
        Ok(Uri(asking(ctx)?.links.repository_page(&self.reading.repository)))
    }

    /// Whether strangers are told that it is not there.
    async fn is_private(&self) -> bool {
        self.reading.visitor.private
    }

    /// What the caller may do.
    async fn viewer_permission(&self) -> Permission {
        if self.reading.visitor.writes { Permission::Write } else { Permission::Read }
    }

    /// The release that is published at a tag; else, for who may write, the newest draft that names it.
    async fn release(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The tag.")] tag_name: String,
    ) -> Result<Option<ReleaseNode>> {
        let Ok(tag) = TagName::parse(&tag_name) else { return Ok(None) };
        let record = match self.published(ctx, &tag).await? {
            None if self.reading.visitor.writes => self.listing(ctx).await?.draft(&tag).cloned(),
            published => published,
        };
        match record {
            Some(record) => Ok(Some(self.release_node(ctx, record).await?)),
            None => Ok(None),
        }
    }

    /// The latest release.
    async fn latest_release(&self, ctx: &Context<'_>) -> Result<Option<ReleaseNode>> {
        let latest = self.listing(ctx).await?.latest().cloned();
        Ok(latest.map(|record| ReleaseNode { record, is_latest: true }))
    }

    /// The releases, newest first unless asked otherwise; drafts too for who may write.
    #[graphql(complexity = "rows(first, last) * child_complexity.min(MOST_FIELDS) + 1")]
    async fn releases(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, from the start.")] first: Option<i32>,
        #[graphql(desc = "How many, from the end.")] last: Option<i32>,
        #[graphql(desc = "Those after this cursor.")] after: Option<String>,
        #[graphql(desc = "Those before this cursor.")] before: Option<String>,
        #[graphql(desc = "In which order.")] order_by: Option<ReleaseOrder>,
    ) -> Result<Connection<Cursor, ReleaseNode, Total>> {
        let order = order_by
            .unwrap_or(ReleaseOrder { field: ReleaseOrderField::CreatedAt, direction: OrderDirection::Desc });
        let listing = self.listing(ctx).await?;
        let key = |record: &Record| match order.field {
            // As many digits for each, so that texts are in the order of times.
            ReleaseOrderField::CreatedAt => format!("{:020}", record.created_at.timestamp_micros()),
            ReleaseOrderField::Name => record.title().to_owned(),
        };
        let mut rows: Vec<_> = listing
            .visible(self.reading.visitor.writes)
            .map(|record| ((key(record), record.id.get()), record))
            .collect();
        let descending = order.direction == OrderDirection::Desc;
        rows.sort_by(|(one, _), (other, _)| if descending { other.cmp(one) } else { one.cmp(other) });
        page(rows, descending, after, before, first, last, |record| ReleaseNode {
            is_latest: listing.is_latest(record.id),
            record: Arc::clone(record),
        })
        .await
    }

    /// A tag that has a release.
    async fn r#ref(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "`refs/tags/` and the tag.")] qualified_name: String,
    ) -> Result<Option<RefNode>> {
        let tag = qualified_name.strip_prefix("refs/").unwrap_or(&qualified_name).strip_prefix("tags/");
        let Some(tag) = tag.and_then(|tag| TagName::parse(tag).ok()) else { return Ok(None) };
        Ok(self.published(ctx, &tag).await?.map(|record| RefNode {
            id: ID(node_id("Ref", record.id.get())),
            name: tag.to_string(),
            prefix: "refs/tags/",
        }))
    }
}

/// What a caller may do in a repository.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(name = "RepositoryPermission")]
enum Permission {
    /// List and download.
    Read,
    /// Publish.
    Write,
}

/// A tag.
#[derive(SimpleObject)]
#[graphql(name = "Ref")]
struct RefNode {
    /// An opaque text.
    id: ID,
    /// The tag.
    name: String,
    /// Always `refs/tags/`.
    prefix: &'static str,
}

/// The order of releases.
#[derive(InputObject)]
struct ReleaseOrder {
    /// By what.
    field: ReleaseOrderField,
    /// Which way.
    direction: OrderDirection,
}

/// What releases are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
enum ReleaseOrderField {
    /// When it was created.
    CreatedAt,
    /// Its title.
    Name,
}

/// A direction.
#[derive(Clone, Copy, PartialEq, Eq, Enum)]
enum OrderDirection {
    /// The least first.
    Asc,
    /// The greatest first.
    Desc,
}

struct ReleaseNode {
    record: Arc<Record>,
    is_latest: bool,
}

/// A release.
#[Object(name = "Release")]
impl ReleaseNode {
    /// An opaque text.
    async fn id(&self) -> ID {
        ID(node_id("Release", self.record.id.get()))
    }

    /// Its number in the REST API.
    async fn database_id(&self) -> u64 {
        self.record.id.get()
    }

    /// Its title; its tag if it has none.
    async fn name(&self, ctx: &Context<'_>) -> Result<&str> {
        let title = self.record.title();
        asking(ctx)?.count(title).map(|()| title)
    }

    /// Its tag.
    async fn tag_name(&self) -> &str {
        self.record.tag_name.as_str()
    }

    /// Its notes, in Markdown.
    async fn description(&self, ctx: &Context<'_>) -> Result<Option<&str>> {
        let notes = self.record.body.as_deref();
        asking(ctx)?.count(notes.unwrap_or_default()).map(|()| notes)
    }

    /// Its notes, in HTML that is safe to show.
    #[graphql(name = "descriptionHTML", complexity = 50)]
    async fn description_html(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        if self.record.body.is_none() {
            return Ok(None);
        }
        let (counted, record) = (Arc::clone(ctx.data::<Arc<Asking>>()?), Arc::clone(&self.record));
        let html = pages::in_turn(move || {
            let notes = record.body.as_deref().unwrap_or_default();
            // Before they are rendered, too: that takes far longer than to copy them.
            counted.count(notes)?;
            let html = pages::markdown(notes);
            counted.count(&html).map(|()| Some(html))
        });
        match html.await {
            Ok(html) => html,
            Err(error) => Err(asking(ctx)?.refuse(error)),
        }
    }

    /// Not published yet.
    async fn is_draft(&self) -> bool {
        !self.record.is_published()
    }

    /// Never the latest.
    async fn is_prerelease(&self) -> bool {
        self.record.prerelease
    }

    /// The one that is.
    async fn is_latest(&self) -> bool {
        self.is_latest
    }

    /// Whether its tag and its assets are frozen.
    async fn immutable(&self) -> bool {
        self.record.immutable
    }

    /// When it was created.
    async fn created_at(&self) -> Time {
        Time(self.record.created_at)
    }

    /// When it was last changed.
    async fn updated_at(&self) -> Time {
        Time(self.record.updated_at)
    }

    /// When it was published; null for drafts alone.
    async fn published_at(&self) -> Option<Time> {
        self.record.published_at.filter(|_| self.record.is_published()).map(Time)
    }

    /// Its page.
    async fn url(&self, ctx: &Context<'_>) -> Result<Uri> {
        Ok(Uri(asking(ctx)?.links.page(&self.record)))
    }

    /// Who created it.
    async fn author(&self) -> User {
        User { login: self.record.author.clone() }
    }

    /// Its files, in the order they came.
    #[graphql(complexity = "rows(first, last) * child_complexity.min(MOST_FIELDS) + 1")]
    async fn release_assets(
        &self,
        #[graphql(desc = "How many, from the start.")] first: Option<i32>,
        #[graphql(desc = "How many, from the end.")] last: Option<i32>,
        #[graphql(desc = "Those after this cursor.")] after: Option<String>,
        #[graphql(desc = "Those before this cursor.")] before: Option<String>,
        #[graphql(desc = "The one of this name alone.")] name: Option<String>,
    ) -> Result<Connection<Cursor, AssetNode, Total>> {
        let wanted = |asset: &&Asset| name.as_ref().is_none_or(|name| asset.name == *name);
        let assets = self.record.assets.iter().filter(wanted);
        let rows = (0..).zip(assets).map(|(index, asset)| ((String::new(), index), asset)).collect();
        page(rows, false, after, before, first, last, |asset| AssetNode {
            record: Arc::clone(&self.record),
            asset: (*asset).clone(),
        })
        .await
    }
}

struct AssetNode {
    record: Arc<Record>,
    asset: Asset,
}

/// A file of a release.
#[Object(name = "ReleaseAsset")]
impl AssetNode {
    /// An opaque text.
    async fn id(&self) -> ID {
        ID(node_id("ReleaseAsset", self.asset.id.get()))
    }

    /// Under which it is downloaded.
    async fn name(&self) -> &str {
        &self.asset.name
    }

    /// As its publisher said.
    async fn content_type(&self) -> &str {
        &self.asset.content_type
    }

    /// In bytes.
    async fn size(&self) -> u64 {
        self.asset.size
    }

    /// `sha256:` and 64 hex digits.
    async fn digest(&self) -> String {
        format!("sha256:{}", self.asset.sha256)
    }

    /// Not counted.
    async fn download_count(&self) -> u64 {
        0
    }

    /// The bytes.
    async fn download_url(&self, ctx: &Context<'_>) -> Result<Uri> {
        Ok(Uri(asking(ctx)?.links.download(&self.record, &self.asset.name)))
    }

    /// Of the REST API.
    async fn url(&self, ctx: &Context<'_>) -> Result<Uri> {
        Ok(Uri(asking(ctx)?.links.asset(&self.record, &self.asset)))
    }

    /// When it was uploaded.
    async fn created_at(&self) -> Time {
        Time(self.asset.created_at)
    }

    /// When it was last changed.
    async fn updated_at(&self) -> Time {
        Time(self.asset.updated_at)
    }

    /// Who uploaded it.
    async fn uploaded_by(&self) -> User {
        User { login: self.asset.uploader.clone() }
    }
}

/// Beside the rows of a page.
#[derive(SimpleObject)]
struct Total {
    /// How many there are on all pages.
    total_count: usize,
}

/// A row by what it is sorted by, so that a page goes on where the last ended though rows came or went.
type Cursor = OpaqueCursor<(String, u64)>;

/// How many rows a page has at most.
fn rows(first: Option<i32>, last: Option<i32>) -> usize {
    let asked = first.or(last).unwrap_or(MOST_ROWS);
    usize::try_from(asked.clamp(1, MOST_ROWS)).unwrap_or(1)
}

/// One page of `rows`, which are sorted.
async fn page<T, N: async_graphql::OutputType>(
    rows: Vec<((String, u64), T)>,
    descending: bool,
    after: Option<String>,
    before: Option<String>,
    first: Option<i32>,
    last: Option<i32>,
    node: impl Fn(&T) -> N,
) -> Result<Connection<Cursor, N, Total>> {
    if first.is_none() && last.is_none() {
        let message = "You must provide a `first` or `last` value to properly paginate.";
        return Err(typed("MISSING_PAGINATION_BOUNDARIES", message.into()));
    }
    if let Some(asked) = first.into_iter().chain(last).find(|asked| *asked > MOST_ROWS) {
        let message = format!("Requesting {asked} records exceeds the limit of {MOST_ROWS} records.");
        return Err(typed("EXCESSIVE_PAGINATION", message));
    }
    let compare = |one: &(String, u64), other: &(String, u64)| -> Ordering {
        if descending { other.cmp(one) } else { one.cmp(other) }
    };
    async_graphql::connection::query(after, before, first, last, |after, before, first, last| async move {
        let mut end = before.map_or(rows.len(), |OpaqueCursor(before): Cursor| {
            rows.partition_point(|(key, _)| compare(key, &before).is_lt())
        });
        let mut start = after.map_or(0, |OpaqueCursor(after): Cursor| {
            rows.partition_point(|(key, _)| compare(key, &after).is_le())
        });
        start = start.min(end);
        if let Some(first) = first {
            end = end.min(start.saturating_add(first));
        }
        if let Some(last) = last {
            start = start.max(end.saturating_sub(last));
        }
        let total = Total { total_count: rows.len() };
        let mut page = Connection::with_additional_fields(start > 0, end < rows.len(), total);
        page.edges.extend(
            rows[start..end].iter().map(|(key, row)| Edge::new(OpaqueCursor(key.clone()), node(row))),
        );
        Ok::<_, Error>(page)
    })
    .await
}

/// An instant, in whole seconds as GitHub writes it.
struct Time(DateTime<Utc>);

/// RFC 3339, in UTC.
#[Scalar(name = "DateTime")]
impl ScalarType for Time {
    fn parse(value: Value) -> async_graphql::InputValueResult<Self> {
        async_graphql::from_value::<DateTime<Utc>>(value)
            .map(Self)
            .map_err(async_graphql::InputValueError::custom)
    }

    fn to_value(&self) -> Value {
        Value::String(time(self.0))
    }
}

/// An address.
struct Uri(String);

/// RFC 3986.
#[Scalar(name = "URI")]
impl ScalarType for Uri {
    fn parse(value: Value) -> async_graphql::InputValueResult<Self> {
        async_graphql::from_value(value).map(Self).map_err(async_graphql::InputValueError::custom)
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}
