//! GraphQL: a query is refused for its size exactly if it is too large in a plain reading, and what is executed is
//! answered. The input: a query; after a line `%%`, its variables in JSON.

#![no_main]

use std::collections::{HashMap, HashSet};

use async_graphql_parser::{
    parse_query,
    types::{ExecutableDocument, FragmentDefinition, Selection, SelectionSet},
};
use http::Method;
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server_fuzz::server;
use serde_json::{Value, json};

/// The limits that are promised.
const MOST_BYTES: usize = 64 * 1024;
const MOST_BRACKETS: usize = 250;
const MOST_VARIABLES: usize = 250;
const MOST_ARGUMENTS: usize = 10;
const LONGEST: usize = 5_000;
const LONGEST_OF_SCHEMA: usize = 600;
const LONGEST_NAME: usize = 100;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    let (query, variables) = text.split_once("\n%%\n").unwrap_or((text, "null"));
    let Ok(variables) = serde_json::from_str::<Value>(variables) else { return Corpus::Reject };
    let body = json!({"query": query, "variables": variables}).to_string();
    let long = body.len() > MOST_BYTES;
    let answer = server().send(Method::POST, "/graphql", body);
    if answer.status.is_client_error() {
        // Else variables that are no object.
        assert!(long || !variables.is_object() && !variables.is_null(), "{answer:?}");
        return Corpus::Keep;
    }
    assert!(!long, "{answer:?}");
    assert!(answer.body.len() < 8 * 1024 * 1024, "{} bytes", answer.body.len());
    let answer = answer.json();
    let message = answer["errors"][0]["message"].as_str().unwrap_or_default();
    // Whole: an error of the parser repeats what was written.
    let refused = [
        "the query is nested too much; ask for less at a time",
        "the query has too many variables; ask for less at a time",
        "the query is too long; ask for less at a time",
        "a fragment of the query contains itself",
        "a fragment of the query is never used",
        "a field of the query has too many arguments",
        "a name in the query is too long",
    ]
    .contains(&message);
    let expected = query.matches(['{', '[', '(']).count() > MOST_BRACKETS
        || query.matches('$').count() > MOST_VARIABLES
        || parse_query(query).is_ok_and(|document| is_large(&document));
    assert_eq!(refused, expected, "{message}");
    Corpus::Keep
});

/// Whether there are too many fields once each fragment is put in its place: they are counted one by one, to just above the
/// limit. A fragment that contains itself never ends.
fn is_large(document: &ExecutableDocument) -> bool {
    let fragments =
        document.fragments.iter().map(|(name, fragment)| (name.as_str(), &fragment.node)).collect();
    let mut walk = Walk { fragments, within: Vec::new(), used: HashSet::new(), count: 0, of_schema: false };
    for (_, operation) in document.operations.iter() {
        walk.through(&operation.node.selection_set.node, 1, 1);
    }
    let most = if walk.of_schema { LONGEST_OF_SCHEMA } else { LONGEST };
    walk.count > most || walk.used.len() < document.fragments.len()
}

struct Walk<'a> {
    fragments: HashMap<&'a str, &'a FragmentDefinition>,
    within: Vec<&'a str>,
    used: HashSet<&'a str>,
    count: usize,
    of_schema: bool,
}

impl<'a> Walk<'a> {
    /// What is selected in `sets` sets at once, one of them in the other, below so many lists of `fields` that it counts
    /// `times`.
    fn through(&mut self, set: &'a SelectionSet, sets: usize, times: usize) {
        for selection in &set.items {
            self.count = self.count.saturating_add(sets.saturating_mul(times));
            if self.count > LONGEST {
                return;
            }
            match &selection.node {
                Selection::Field(field) => {
                    let (field, name) = (&field.node, field.node.name.node.as_str());
                    self.of_schema |= name == "__schema" || name == "__type";
                    let long = name.len() > LONGEST_NAME || field.response_key().node.len() > LONGEST_NAME;
                    if long || field.arguments.len() > MOST_ARGUMENTS {
                        self.count = usize::MAX;
                        return;
                    }
                    let doubled = if name == "fields" { times.saturating_mul(2) } else { times };
                    self.through(&field.selection_set.node, 1, doubled);
                }
                Selection::InlineFragment(fragment) => {
                    self.through(&fragment.node.selection_set.node, sets + 1, times);
                }
                Selection::FragmentSpread(spread) => {
                    let name = spread.node.fragment_name.node.as_str();
                    if self.within.contains(&name) {
                        self.count = usize::MAX;
                        return;
                    }
                    let Some(fragment) = self.fragments.get(name).copied() else { continue };
                    self.used.insert(name);
                    self.within.push(name);
                    self.through(&fragment.selection_set.node, sets + 1, times);
                    self.within.pop();
                }
            }
        }
    }
}
