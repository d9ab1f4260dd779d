//! Releases in JSON, piece by piece. A page of a hundred releases may have a hundred thousand assets, which are more than a
//! hundred megabytes, and who asks for it may take hours to read it.
//!
//! - A text is gone through once, for its ETag and its length, on another thread if it is of many assets. As much of it as
//!   there is room for is kept until it is sent; all answers share [`ROOM_BYTES`].
//! - A text that there was no room for is made once more while it is sent, as fast as its client reads. It is the same to the
//!   byte, for it is made of the same records. So nobody is refused because others are slow, and who is slow costs no more than
//!   a block and a piece.

use std::{convert::Infallible, iter, sync::Arc};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::yield_now,
};

use super::{
    answer,
    error::Result,
    json::{AssetJson, ReleaseJson},
    links::Links,
};
use crate::{
    apart::apart,
    digest::Hasher,
    error::Error,
    releases::record::Record,
    rendered::{Answer, etag},
};

/// A part of a text: an asset, or what else there is of a release.
pub(super) type Piece = Result<String, Error>;

/// How much is sent at once, in bytes; the piece that reaches that is in it as a whole.
const BLOCK_BYTES: usize = 32 * 1024;

/// What may be kept of all texts that are being sent, in bytes.
const ROOM_BYTES: usize = 64 << 20;

static ROOM: Semaphore = Semaphore::const_new(ROOM_BYTES);

/// One that has no parts.
pub(super) fn json(value: &impl Serialize) -> Piece {
    serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.into()))
}

/// A release: what comes before its assets, and one of these after the other.
pub(super) fn release(record: Arc<Record>, links: Links) -> impl Iterator<Item = Piece> {
    let count = record.assets.len();
    (0..=count).map(move |index| -> Piece {
        if index == 0 {
            let mut text = json(&ReleaseJson::without_assets(&record, &links))?;
            if count > 0 {
                // Their list is the last field, and is filled instead of closed.
                text.truncate(text.len() - "]\n}".len());
            }
            return Ok(text);
        }
        let asset = json(&AssetJson::new(&record, &record.assets[index - 1], &links))?;
        let before = if index == 1 { "\n    " } else { ",\n    " };
        let after = if index == count { "\n  ]\n}" } else { "" };
        Ok(format!("{before}{}{after}", asset.replace('\n', "\n    ")))
    })
}

/// A list of rows.
pub(super) fn list<T, I>(rows: Vec<T>, row: impl Fn(T) -> I) -> impl Iterator<Item = Piece>
where
    I: Iterator<Item = Piece>,
{
    let end = if rows.is_empty() { "[]" } else { "\n]" };
    let rows = rows.into_iter().enumerate().flat_map(move |(index, value)| {
        let before = if index == 0 { "[\n  " } else { ",\n  " };
        // Within a text a line break is escaped, so all that are found here are JSON's own.
        let pieces = row(value).map(|piece| piece.map(|text| text.replace('\n', "\n  ")));
        iter::once(Ok(before.to_owned())).chain(pieces)
    });
    rows.chain(iter::once(Ok(end.to_owned())))
}

/// For how many things a release counts that take some microseconds each.
pub(super) fn things(record: &Record) -> usize {
    let text: usize = [&record.name, &record.body].into_iter().flatten().map(String::len).sum();
    // A kibibyte takes about as long as an asset.
    1 + record.assets.len() + text / 1024
}

/// Answers with the text that `pieces` gives each time it is called, of so many things.
pub(super) async fn respond<P>(
    things: usize,
    pieces: impl Fn() -> P + Send + 'static,
    headers: &HeaderMap,
) -> Result<Response>
where
    P: Iterator<Item = Piece> + Send + 'static,
{
    let (text, pieces) = apart(things, move || (read(pieces(), &ROOM), pieces)).await?;
    Ok(send(text?, pieces, headers))
}

/// Answers with a text that is at hand, and kept for others too: a slow reader may be the last to hold it.
pub(super) fn respond_with<P>(text: Answer, pieces: impl FnOnce() -> P, headers: &HeaderMap) -> Response
where
    P: Iterator<Item = Piece> + Send + 'static,
{
    let Answer { body, etag } = text;
    let bytes = body.len();
    let kept = if bytes <= BLOCK_BYTES { Some(body) } else { keep(body, &ROOM) };
    send(Text { etag, bytes, kept: kept.map(|body| vec![body]) }, pieces, headers)
}

/// What is known of a text that was gone through.
struct Text {
    etag: HeaderValue,
    bytes: usize,
    /// `None` if there was no room for all of it.
    kept: Option<Vec<Bytes>>,
}

fn read(pieces: impl Iterator<Item = Piece>, room: &'static Semaphore) -> Result<Text, Error> {
    let (mut hasher, mut bytes, mut kept) = (Hasher::default(), 0, Some(Vec::new()));
    for block in blocks(pieces) {
        let block = block?;
        hasher.update(block.as_bytes());
        bytes += block.len();
        if let Some(mut blocks) = kept.take()
            && let Some(block) = keep(block, room)
        {
            blocks.push(block);
            kept = Some(blocks);
        }
    }
    Ok(Text { etag: etag(hasher.finish()), bytes, kept })
}

fn send<P>(text: Text, pieces: impl FnOnce() -> P, headers: &HeaderMap) -> Response
where
    P: Iterator<Item = Piece> + Send + 'static,
{
    let Text { etag, bytes, kept } = text;
    let mut response = answer(Answer { body: Bytes::new(), etag }, headers);
    if response.status() == StatusCode::OK {
        *response.body_mut() = match kept {
            Some(mut blocks) if blocks.len() == 1 => blocks.swap_remove(0).into(),
            Some(blocks) => Body::from_stream(stream::iter(blocks.into_iter().map(Ok::<_, Infallible>))),
            None => Body::from_stream(made_again(pieces())),
        };
        response.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
    }
    response
}

/// The blocks of a text, each made when it is asked for.
fn made_again<P>(pieces: P) -> impl Stream<Item = Piece> + Send + 'static
where
    P: Iterator<Item = Piece> + Send + 'static,
{
    stream::unfold(blocks(pieces), |mut blocks| async move {
        let block = blocks.next()?;
        // Then it is somebody else's turn on this thread.
        yield_now().await;
        Some((block, blocks))
    })
}

/// Pieces put together to what is sent at once, with a newline at the end, for terminals.
fn blocks<P: Iterator<Item = Piece>>(pieces: P) -> impl Iterator<Item = Piece> {
    let mut pieces = pieces.chain(iter::once(Ok("\n".to_owned())));
    iter::from_fn(move || {
        let mut block = String::new();
        while block.len() < BLOCK_BYTES {
            match pieces.next() {
                Some(Ok(piece)) => block.push_str(&piece),
                Some(error) => return Some(error),
                None => break,
            }
        }
        block.shrink_to_fit();
        (!block.is_empty()).then_some(Ok(block))
    })
}

/// Bytes that take their part of the room for as long as anybody holds them.
struct Kept<T> {
    bytes: T,
    _room: SemaphorePermit<'static>,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// `None` if there is no room for them.
fn keep<T>(bytes: T, room: &'static Semaphore) -> Option<Bytes>
where
    T: AsRef<[u8]> + Send + 'static,
{
    let length = u32::try_from(bytes.as_ref().len()).ok()?;
    let room = room.try_acquire_many(length).ok()?;
    Some(Bytes::from_owner(Kept { bytes, _room: room }))
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        pin::pin,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        thread,
    };

    use axum::body::to_bytes;
    use futures_util::StreamExt as _;
    use http::Uri;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::{base_url::Front, packages};

    fn links() -> Links {
        let front = Front::new(None, &[], "127.0.0.1:8000".parse().unwrap());
        let (uri, nobody) = (Uri::from_static("/"), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Links::of(front.base_url(&uri, &HeaderMap::new(), nobody))
    }

    fn record(assets: usize) -> Arc<Record> {
        let time = "2026-09-12T14:03:11.123Z";
        let asset = |slot: usize| {
            json!({
                "id": (7 << 11) + slot,
                "name": format!("{slot}.zip"),
                "label": "two\nlines, and \"quotes\"",
                "content_type": "application/zip",
                "size": 3,
                "sha256": "0".repeat(64),
                "key": format!("repos/acme/app/files/7/token/{slot}.zip"),
                "uploader": "me",
                "created_at": time,
                "updated_at": time,
            })
        };
        let assets: Vec<Value> = (0..assets).map(asset).collect();
        let record = json!({
            "id": 7,
            "repository": "acme/app",
            "tag_name": "v1",
            "body": "Two\nlines []\n}",
            "published": true,
            "created_at": time,
            "updated_at": time,
            "author": "me",
            "revision": 1,
            "edit": "a",
            "assets": assets,
        });
        Arc::new(serde_json::from_value(record).unwrap())
    }

    fn page(records: Vec<Arc<Record>>) -> impl Iterator<Item = Piece> + Send + 'static {
        list(records, |record| release(record, links()))
    }

    fn joined(pieces: impl Iterator<Item = Piece>) -> String {
        blocks(pieces).map(Result::unwrap).collect()
    }

    #[test]
    fn the_pieces_of_a_text_are_the_text() {
        for counts in [&[][..], &[0], &[1], &[3, 0, 1, 100]] {
            let records: Vec<_> = counts.iter().map(|&count| record(count)).collect();
            let whole = |record: &Arc<Record>| ReleaseJson::new(record, &links());
            for record in &records {
                let pieces = release(Arc::clone(record), links());
                assert_eq!(packages::json(&whole(record)).unwrap(), joined(pieces));
            }
            let whole: Vec<_> = records.iter().map(whole).collect();
            assert_eq!(packages::json(&whole).unwrap(), joined(page(records)));
        }
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_the_same_made_again() {
        static PLENTY: Semaphore = Semaphore::const_new(ROOM_BYTES);
        static LITTLE: Semaphore = Semaphore::const_new(2 * BLOCK_BYTES);
        let pieces = || page(vec![record(200), record(0)]);
        let whole = Answer::new(joined(pieces()).into());
        for (room, enough) in [(&PLENTY, true), (&LITTLE, false)] {
            let all = room.available_permits();
            let text = read(pieces(), room).unwrap();
            assert_eq!((text.kept.is_some(), &text.etag), (enough, &whole.etag));
            assert_eq!(all - room.available_permits(), if enough { whole.body.len() } else { 0 });
            let response = send(text, pieces, &HeaderMap::new());
            assert_eq!(response.headers()[header::ETAG], whole.etag);
            assert_eq!(response.headers()[header::CONTENT_LENGTH], whole.body.len().to_string());
            assert!(to_bytes(response.into_body(), usize::MAX).await.unwrap() == whole.body);
            assert_eq!(room.available_permits(), all, "of what was sent something is kept");
        }
    }

    #[tokio::test]
    async fn who_has_a_text_already_is_sent_none_of_it() {
        let text = Answer::new(joined(page(vec![record(200)])).into());
        let mut headers = HeaderMap::new();
        headers.insert(header::IF_NONE_MATCH, text.etag.clone());
        let nothing = || -> iter::Empty<Piece> { panic!("it is made again") };
        assert_eq!(respond_with(text, nothing, &headers).status(), StatusCode::NOT_MODIFIED);
        let response = respond(201, || page(vec![record(200)]), &headers).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(to_bytes(response.into_body(), 1).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_reader_who_is_slow_holds_a_block_and_no_more() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let pieces = (0..10_000).map(move |_| {
            counted.fetch_add(1, Relaxed);
            Ok("x".repeat(1024))
        });
        let mut stream = pin!(made_again(pieces));
        for blocks in 1..10 {
            let block = stream.next().await.unwrap().unwrap();
            assert_eq!((block.len(), made.load(Relaxed)), (BLOCK_BYTES, blocks * BLOCK_BYTES / 1024));
        }
    }

    #[tokio::test]
    async fn a_text_of_many_things_is_gone_through_on_another_thread() {
        for (count, here) in [(1, true), (1000, false)] {
            let threads = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&threads);
            let pieces = move || {
                seen.lock().unwrap().push(thread::current().id());
                iter::once(Ok("[]".to_owned()))
            };
            respond(things(&record(count)), pieces, &HeaderMap::new()).await.unwrap();
            assert_eq!(threads.lock().unwrap()[..] == [thread::current().id()], here, "{count}");
        }
    }
}
