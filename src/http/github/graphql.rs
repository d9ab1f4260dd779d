//! GitHub's GraphQL, as far as clients ask it about releases: `gh` finds drafts and lists releases no other way.
//!
//! It is a real executor over a small schema (`graphql/schema.rs`), for clients send aliases, variables, fragments and
//! questions about the schema, and stumble over a key that they did not ask for. What holds:
//!
//! - It only reads. What it shows, and to whom, is what the REST API shows.
//! - A repository that is not there, or private, is null with an error of the type `NOT_FOUND`.
//! - A token that is refused, or a store that does not answer, is the answer to the whole request, as in REST.
//! - How large a query may become is settled before it is validated and executed, and before fragments are put in place:
//!   those can make a few lines as long as one likes. The validation tells of every pair that does not go together, in
//!   each set that it is in, and the executor counts no answers about the schema: both are a matter of the query's size.
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
        types::{ExecutableDocument, Field, FragmentDefinition, Selection, SelectionSet},
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

/// The longest query with its variables, in bytes: parsed, it takes hundreds of times as much. `gh` sends a few thousand.
const MOST_BYTES: usize = 64 * 1024;

/// The most brackets that open in a query: the parser takes a part of its stack for each that is open.
const MOST_BRACKETS: usize = 250;

/// How often a query may mention variables: the validation takes a value for each mention of it, and looks at all mentions
/// for each operation.
const MOST_VARIABLES: usize = 250;

/// The longest query, see [`Size::whole`].
const LONGEST: usize = 5_000;

/// The longest one that asks about the schema: a list of a hundred fields can be asked for under many names. Those of the
/// tools of GraphQL are below 400.
const LONGEST_OF_SCHEMA: usize = 600;

/// The most arguments of a field: those of fields of one name are compared.
const MOST_ARGUMENTS: usize = 10;

/// The longest name of a field, in bytes: it comes again in each row of the answer.
const LONGEST_NAME: usize = 100;

/// The most errors that are told.
const MOST_ERRORS: usize = 100;

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
    Sent(asked): Sent<Asked, MOST_BYTES>,
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
            let errors = response.errors.into_iter().take(MOST_ERRORS).map(Entry::from).collect();
            Answer { data: response.data, errors }
        }
    };
    let fields =
        [(header::CONTENT_TYPE, super::JSON), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((fields, json(&answer)?).into_response())
}

/// Parses a query, unless it is too large to be walked through.
fn parse(query: &str) -> Result<ExecutableDocument, ServerError> {
    let refused = |why: &str| ServerError::new(why, None);
    if query.matches(['{', '[', '(']).count() > MOST_BRACKETS {
        return Err(refused("the query is nested too much; ask for less at a time"));
    }
    if query.matches('$').count() > MOST_VARIABLES {
        return Err(refused("the query has too many variables; ask for less at a time"));
    }
    let document = parse_query(query)?;
    measure(&document).map_err(refused)?;
    Ok(document)
}

/// Why a query is too large to be validated, if it is.
fn measure(document: &ExecutableDocument) -> Result<(), &'static str> {
    let mut sizes = Sizes { fragments: &document.fragments, known: HashMap::new(), of_schema: false };
    let mut length = 0_usize;
    for (_, operation) in document.operations.iter() {
        length = length.saturating_add(sizes.of(&operation.node.selection_set.node)?.whole);
    }
    // It has not been measured, and would be validated.
    if sizes.known.len() < document.fragments.len() {
        return Err("a fragment of the query is never used");
    }
    let longest = if sizes.of_schema { LONGEST_OF_SCHEMA } else { LONGEST };
    if length > longest { Err("the query is too long; ask for less at a time") } else { Ok(()) }
}

/// How much is selected, once fragments are put in place.
#[derive(Clone, Copy, Default)]
struct Size {
    /// Fields and fragments, without what is selected of these fields.
    own: usize,
    /// All, and each once more for each fragment around it: the validation compares it that often.
    whole: usize,
}

/// How much there is of each part of a query; each fragment is counted once.
struct Sizes<'a> {
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    /// `None` while it is being counted.
    known: HashMap<&'a Name, Option<Size>>,
    /// Whether the schema is asked about.
    of_schema: bool,
}

impl<'a> Sizes<'a> {
    fn of(&mut self, set: &'a SelectionSet) -> Result<Size, &'static str> {
        let mut size = Size { own: set.items.len(), whole: 0 };
        for selection in &set.items {
            let within = match &selection.node {
                Selection::Field(field) => self.of_field(&field.node)?,
                Selection::InlineFragment(fragment) => self.of(&fragment.node.selection_set.node)?,
                Selection::FragmentSpread(spread) => self.of_fragment(&spread.node.fragment_name.node)?,
            };
            size.own = size.own.saturating_add(within.own);
            size.whole = size.whole.saturating_add(within.whole);
        }
        size.whole = size.whole.saturating_add(size.own);
        Ok(size)
    }

    fn of_field(&mut self, field: &'a Field) -> Result<Size, &'static str> {
        let name = field.name.node.as_str();
        if name.len().max(field.response_key().node.len()) > LONGEST_NAME {
            return Err("a name in the query is too long");
        }
        if field.arguments.len() > MOST_ARGUMENTS {
            return Err("a field of the query has too many arguments");
        }
        self.of_schema |= matches!(name, "__schema" | "__type");
        let whole = self.of(&field.selection_set.node)?.whole;
        // In the schema they have types, which have fields again.
        let times = if name == "fields" { 2 } else { 1 };
        Ok(Size { own: 0, whole: whole.saturating_mul(times) })
    }

    fn of_fragment(&mut self, name: &Name) -> Result<Size, &'static str> {
        // One that is missing is told of by the validation.
        let Some((name, fragment)) = self.fragments.get_key_value(name) else { return Ok(Size::default()) };
        if let Some(known) = self.known.get(name) {
            return known.ok_or("a fragment of the query contains itself");
        }
        self.known.insert(name, None);
        let size = self.of(&fragment.node.selection_set.node)?;
        self.known.insert(name, Some(size));
        Ok(size)
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
        parse(&format!("{{ {} }}", "a ".repeat(LONGEST))).unwrap();
        assert!(refused(&format!("{{ {} }}", "a ".repeat(LONGEST + 1))).contains("too long"));
    }

    #[test]
    fn what_the_validation_would_compare_again_and_again_is_refused() {
        let arguments = |count: usize| format!("{{ a({}) a }}", "b: 1 ".repeat(count));
        parse(&arguments(MOST_ARGUMENTS)).unwrap();
        assert!(refused(&arguments(MOST_ARGUMENTS + 1)).contains("arguments"));
        for alias in ["", "a: "] {
            let name = |length: usize| format!("{{ {alias}{} }}", "b".repeat(length));
            parse(&name(LONGEST_NAME)).unwrap();
            assert!(refused(&name(LONGEST_NAME + 1)).contains("name"));
        }
        assert!(refused(&format!("{{ {}: a }}", "b".repeat(LONGEST_NAME + 1))).contains("name"));
        let variables = |count: usize| format!("{{ a(b: [{}]) }}", "$c ".repeat(count));
        parse(&variables(MOST_VARIABLES)).unwrap();
        assert!(refused(&variables(MOST_VARIABLES + 1)).contains("variables"));

        // Once for each fragment around it.
        let many = "a ".repeat(LONGEST / 10);
        let within =
            |times: usize| format!("{}{{ {many}}}{}", "{ ... on B ".repeat(times), " }".repeat(times));
        parse(&within(5)).unwrap();
        assert!(refused(&within(15)).contains("too long"));
        let spread: Vec<_> =
            (0..15).map(|index| format!("fragment f{index} on B {{ ...f{} }} ", index + 1)).collect();
        let spread = format!("{{ ...f0 }} {}fragment f15 on B {{ {many}}}", spread.concat());
        assert!(refused(&spread).contains("too long"));
        assert!(refused(&format!("{{ a }} fragment b on C {{ {many}}}")).contains("never used"));
    }

    #[test]
    fn a_question_about_the_schema_is_a_short_one() {
        for query in ["{ __schema { types { name } } }", "{ a: __type(name: \"B\") { a: kind { name } } }"] {
            let times = |times: usize| query.replace("name }", &format!("{}}}", "name ".repeat(times)));
            parse(&times(LONGEST_OF_SCHEMA - 2)).unwrap();
            assert!(refused(&times(LONGEST_OF_SCHEMA - 1)).contains("too long"));
        }
        // Twice for each list of fields around it.
        let fields =
            |times: usize| format!("{{ __type(name: \"A\") {{ fields {{ {} }} }} }}", "name ".repeat(times));
        parse(&fields(LONGEST_OF_SCHEMA / 2 - 1)).unwrap();
        assert!(refused(&fields(LONGEST_OF_SCHEMA / 2)).contains("too long"));
    }
}
