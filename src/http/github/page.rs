//! Lists by the page, and the `Link` header that leads from one to the next (RFC 8288).
//!
//! Clients differ in how much of it they read: there is one header with `next` first, each link is
//! `<absolute URL>; rel="name"`, and a list that fits on one page has none.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, header};

use super::{
    error::Result,
    pieces::{self, Piece},
    releases::PageQuery,
};
use crate::error::Error;

const DEFAULT: usize = 30;
const MOST: usize = 100;

/// Answers with one page of `all`, each put into JSON by `row`, and counted by `things`.
pub(super) async fn respond<T, I>(
    all: impl ExactSizeIterator<Item = T>,
    query: PageQuery,
    url: &str,
    headers: &HeaderMap,
    things: impl Fn(&T) -> usize,
    row: impl Fn(T) -> I + Clone + Send + 'static,
) -> Result<Response>
where
    T: Clone + Send + 'static,
    I: Iterator<Item = Piece> + Send + 'static,
{
    let per_page = query.per_page.filter(|&count| count > 0).unwrap_or(DEFAULT).min(MOST);
    let page = query.page.unwrap_or(1).max(1);
    let link = link(all.len(), per_page, page, url);
    let rows: Vec<T> = all.skip((page - 1).saturating_mul(per_page)).take(per_page).collect();
    let things: usize = rows.iter().map(things).sum();
    let text = move || pieces::list(rows.clone(), row.clone());
    let mut response = pieces::respond(things, text, headers).await?;
    if let Some(link) = link {
        let link = HeaderValue::try_from(link).map_err(|error| Error::Internal(error.into()))?;
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// The header of one page; `None` where there is but one.
fn link(count: usize, per_page: usize, page: usize, url: &str) -> Option<String> {
    let last = count.div_ceil(per_page).max(1);
    let to =
        |number: usize, relation| format!("<{url}?per_page={per_page}&page={number}>; rel=\"{relation}\"");
    let mut links = Vec::new();
    if page < last {
        links.extend([to(page + 1, "next"), to(last, "last")]);
    }
    if page > 1 {
        links.extend([to(1, "first"), to((page - 1).min(last), "prev")]);
    }
    (!links.is_empty()).then(|| links.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_comes_first_and_one_page_needs_no_links() {
        let link = |count, page| link(count, 30, page, "https://h/r");
        assert_eq!(link(0, 1), None);
        assert_eq!(link(30, 1), None);
        assert_eq!(
            link(31, 1).as_deref(),
            Some(
                r#"<https://h/r?per_page=30&page=2>; rel="next", <https://h/r?per_page=30&page=2>; rel="last""#
            )
        );
        assert!(link(90, 2).unwrap().starts_with("<https://h/r?per_page=30&page=3>; rel=\"next\", "));
        assert_eq!(
            link(31, 9).as_deref(),
            Some(
                r#"<https://h/r?per_page=30&page=1>; rel="first", <https://h/r?per_page=30&page=2>; rel="prev""#
            )
        );
    }
}
