//! GraphQL: a query is refused for its size exactly if it is too large in a plain reading, and what is executed is
//! answered. The input: a query; after a line `%%`, its variables in JSON.

#![no_main]

use std::collections::HashMap;

use async_graphql_parser::{
    parse_query,
    types::{ExecutableDocument, FragmentDefinition, Selection, SelectionSet},
};
use http::Method;
use libfuzzer_sys::{Corpus, fuzz_target};
use release_server_fuzz::server;
use serde_json::{Value, json};

/// The limits that are promised.
const MOST_BRACKETS: usize = 250;
const LONGEST: usize = 5_000;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    let (query, variables) = text.split_once("\n%%\n").unwrap_or((text, "null"));
    let Ok(variables) = serde_json::from_str::<Value>(variables) else { return Corpus::Reject };
    let body = json!({"query": query, "variables": variables}).to_string();
    let answer = server().send(Method::POST, "/graphql", body);
    if answer.status.is_client_error() {
        // Variables that are no object.
        assert!(!variables.is_object() && !variables.is_null(), "{answer:?}");
        return Corpus::Keep;
    }
    assert!(answer.body.len() < 4 * 1024 * 1024, "{} bytes", answer.body.len());
    let answer = answer.json();
    let message = answer["errors"][0]["message"].as_str().unwrap_or_default();
    // Whole: an error of the parser repeats what was written.
    let refused = [
        "the query is nested too much; ask for less at a time",
        "the query is too long; ask for less at a time",
        "a fragment of the query contains itself",
    ]
    .contains(&message);
    let nested = query.matches(['{', '[', '(']).count() > MOST_BRACKETS;
    let expected = nested || parse_query(query).is_ok_and(|document| length(&document) > LONGEST);
    assert_eq!(refused, expected, "{message}");
    Corpus::Keep
});

/// How many fields there are once each fragment is put in its place: one by one, to just above the limit. One that
/// contains itself never ends.
fn length(document: &ExecutableDocument) -> usize {
    let fragments =
        document.fragments.iter().map(|(name, fragment)| (name.as_str(), &fragment.node)).collect();
    let mut count = 0;
    for (_, operation) in document.operations.iter() {
        walk(&operation.node.selection_set.node, &fragments, &mut Vec::new(), &mut count);
    }
    count
}

fn walk<'a>(
    set: &'a SelectionSet,
    fragments: &HashMap<&str, &'a FragmentDefinition>,
    within: &mut Vec<&'a str>,
    count: &mut usize,
) {
    for selection in &set.items {
        *count += 1;
        if *count > LONGEST {
            return;
        }
        match &selection.node {
            Selection::Field(field) => walk(&field.node.selection_set.node, fragments, within, count),
            Selection::InlineFragment(fragment) => {
                walk(&fragment.node.selection_set.node, fragments, within, count);
            }
            Selection::FragmentSpread(spread) => {
                let name = spread.node.fragment_name.node.as_str();
                if within.contains(&name) {
                    *count = LONGEST + 1;
                    return;
                }
                let Some(fragment) = fragments.get(name) else { continue };
                within.push(name);
                walk(&fragment.selection_set.node, fragments, within, count);
                within.pop();
            }
        }
    }
}
