//! GitHub's GraphQL, as far as clients ask it about releases: `gh` finds drafts and lists releases no other way.
//!
//! It is a real executor over a small schema (`graphql/schema.rs`), for clients send aliases, variables, fragments and
//! questions about the schema, and stumble over a key that they did not ask for. What holds:
//!
//! - It only reads. What it shows, and to whom, is what the REST API shows.
//! - A repository that is not there, or private, is null with an error of the type `NOT_FOUND`.
//! - A token that is refused, or a store that does not answer, is the answer to the whole request, as in REST.
//! - How large a query may become is settled before it is executed, and before fragments are put in place: those can
//!   make a few lines as long as one likes.
//! - Notes and titles are counted by the byte: a query may ask for the same ones thousands of times.

mod schema;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_graphql::{
    Name, PathSegment, Positioned, Request, ServerError, Value, Variables,
    parser::{
        parse_query,
        types::{ExecutableDocument, FragmentDefinition, Selection, SelectionSet},
    },
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    access::Sent,
    error::{Refusal, Result},
    links::Links,
};
use crate::{
    error::Error,
    http::{App, packages::json},
};

/// The most brackets that open in a query: the parser takes a part of its stack for each that is open.
const MOST_BRACKETS: usize = 250;

/// The most fields in a query once its fragments are put in place.
const LONGEST: usize = 5_000;

/// What notes and titles may take in an answer, in bytes: a hundred releases with the longest notes (125,000 characters).
const MOST_TEXT: usize = 16 << 20;

/// A query.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "GraphQLQuery")]
pub(super) struct Asked {
    /// GraphQL.
    #[schemars(example = &r#"{ repository(owner: "acme", name: "app") { latestRelease { tagName } } }"#)]
    query: String,
    /// Which operation, if there are several.
    #[serde(default, rename = "operationName")]
    #[schemars(skip_serializing_if = "Option::is_none")]
    operation_name: Option<String>,
    /// The values of its variables.
    #[serde(default)]
    #[schemars(with = "Option<HashMap<String, serde_json::Value>>", skip_serializing_if = "Option::is_none")]
    variables: Option<Variables>,
}

/// What a query came to.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GraphQLAnswer")]
pub(super) struct Answer {
    /// What was asked for, and nothing else.
    #[schemars(with = "Option<HashMap<String, serde_json::Value>>")]
    data: Value,
    /// Why a part of it is null.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Entry>,
}

/// An error, in GitHub's shape: its type stands beside the message.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GraphQLError")]
struct Entry {
    /// `NOT_FOUND`, for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<String>,
    /// Where in the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<serde_json::Value>")]
    path: Vec<PathSegment>,
    /// Where in the query.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<HashMap<String, usize>>")]
    locations: Vec<async_graphql::Pos>,
    /// What is wrong.
    message: String,
}

impl From<ServerError> for Entry {
    fn from(error: ServerError) -> Self {
        let said = error.extensions.as_ref().and_then(|extensions| extensions.get("type"));
        let r#type = match said {
            Some(Value::String(text)) => Some(text.clone()),
            _ => None,
        };
        Self { r#type, path: error.path, locations: error.locations, message: error.message }
    }
}

/// Who asks, for the resolvers.
struct Asking {
    app: App,
    links: Links,
    authorization: Option<HeaderValue>,
    /// What ends the whole request.
    refused: Mutex<Option<Refusal>>,
    /// Bytes of notes and titles in the answer so far.
    text_bytes: AtomicUsize,
}

impl Asking {
    /// Ends the whole request; the error is for the executor alone.
    fn refuse(&self, refusal: impl Into<Refusal>) -> async_graphql::Error {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get_or_insert(refusal.into());
        async_graphql::Error::new("refused")
    }

    /// Counts a text that the answer will have.
    fn count(&self, text: &str) -> std::result::Result<(), async_graphql::Error> {
        if self.text_bytes.fetch_add(text.len(), Relaxed).saturating_add(text.len()) <= MOST_TEXT {
            return Ok(());
        }
        Err(self.refuse(Error::Unprocessable("the answer is too long; ask for less at a time".into())))
    }

    fn take_refusal(&self) -> Option<Refusal> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// `POST /api/graphql`
pub(super) async fn graphql(
    State(app): State<App>,
    links: Links,
    headers: HeaderMap,
    Sent(asked): Sent<Asked>,
) -> Result<Response> {
    let authorization = headers.get(header::AUTHORIZATION).cloned();
    let answer = match parse(&asked.query) {
        Err(error) => Answer { data: Value::Null, errors: vec![error.into()] },
        Ok(document) => {
            let asking = Arc::new(Asking {
                app,
                links,
                authorization,
                refused: Mutex::default(),
                text_bytes: AtomicUsize::new(0),
            });
            let mut request = Request::new(asked.query)
                .variables(asked.variables.unwrap_or_default())
                .data(Arc::clone(&asking));
            request.operation_name = asked.operation_name;
            request.set_parsed_query(document);
            let response = schema::SCHEMA.execute(request).await;
            if let Some(refusal) = asking.take_refusal() {
                return Err(refusal);
            }
            Answer { data: response.data, errors: response.errors.into_iter().map(Entry::from).collect() }
        }
    };
    let fields =
        [(header::CONTENT_TYPE, super::JSON), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((fields, json(&answer)?).into_response())
}

/// Parses a query, unless it is too large to be walked through.
fn parse(query: &str) -> std::result::Result<ExecutableDocument, ServerError> {
    if query.matches(['{', '[', '(']).count() > MOST_BRACKETS {
        return Err(ServerError::new("the query is nested too much; ask for less at a time", None));
    }
    let document = parse_query(query)?;
    let mut lengths = Lengths { fragments: &document.fragments, known: HashMap::new() };
    let length = document.operations.iter().try_fold(0_usize, |sum, (_, operation)| {
        Some(sum.saturating_add(lengths.of(&operation.node.selection_set.node)?))
    });
    match length {
        Some(length) if length <= LONGEST => Ok(document),
        Some(_) => Err(ServerError::new("the query is too long; ask for less at a time", None)),
        None => Err(ServerError::new("a fragment of the query contains itself", None)),
    }
}

/// How many fields there are once fragments are put in place, each fragment counted once.
struct Lengths<'a> {
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    /// `None` while it is being counted.
    known: HashMap<&'a Name, Option<usize>>,
}

impl<'a> Lengths<'a> {
    /// `None` where a fragment contains itself.
    fn of(&mut self, set: &'a SelectionSet) -> Option<usize> {
        set.items.iter().try_fold(0_usize, |sum, selection| {
            let length = match &selection.node {
                Selection::Field(field) => self.of(&field.node.selection_set.node)?,
                Selection::InlineFragment(fragment) => self.of(&fragment.node.selection_set.node)?,
                Selection::FragmentSpread(spread) => self.of_fragment(&spread.node.fragment_name.node)?,
            };
            Some(sum.saturating_add(length).saturating_add(1))
        })
    }

    fn of_fragment(&mut self, name: &Name) -> Option<usize> {
        // One that is missing is told of by the validation.
        let Some((name, fragment)) = self.fragments.get_key_value(name) else { return Some(0) };
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        self.known.insert(name, None);
        let length = self.of(&fragment.node.selection_set.node)?;
        self.known.insert(name, Some(length));
        Some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(query: &str) -> String {
        parse(query).unwrap_err().message
    }

    #[test]
    fn a_query_of_any_size_is_settled_at_once() {
        let bomb = (0..60).fold("{ ...f0 } fragment f60 on Query { a }".to_owned(), |query, index| {
            format!("{query} fragment f{index} on Query {{ ...f{0} ...f{0} }}", index + 1)
        });
        assert!(refused(&bomb).contains("too long"), "{}", refused(&bomb));
        assert!(
            refused("{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }").contains("itself")
        );
        assert!(refused(&"{a".repeat(100_000)).contains("nested"));
        assert!(refused(&format!("query ($a: {}", "[".repeat(100_000))).contains("nested"));
        // As deep as it may be, within the stack of a test.
        refused(&"{a".repeat(MOST_BRACKETS));
        refused(&format!("{{a(b: {}", "[".repeat(MOST_BRACKETS - 2)));
        parse("{ a { b ...c } } fragment c on D { e }").unwrap();
    }
}
