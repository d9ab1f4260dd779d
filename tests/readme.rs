//! What the README and the operating guide say in tables is what the program has: settings, requests, log events,
//! metrics.

#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use figment::{
    Figment,
    providers::{Format as _, Yaml},
};
use release_server::{config, http, metrics::Metrics};
use serde_json::{Value, json};

const README: &str = include_str!("../README.md");
const GUIDE: &str = include_str!("../docs/operating.md");
const THREATS: &str = include_str!("../docs/threats.md");

/// The cells of the first table of a section of the README, without its heading.
fn table(section: &str) -> Vec<Vec<&'static str>> {
    table_in(README, section)
}

fn table_in(document: &'static str, section: &str) -> Vec<Vec<&'static str>> {
    let (_, rest) = document.split_once(&format!("\n## {section}\n")).unwrap();
    let lines =
        rest.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    lines.skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What is in the backticks of a cell that has nothing else.
fn code(cell: &'static str) -> &'static str {
    cell.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or(cell)
}

/// Every key with its default as the table writes it.
fn settings(prefix: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    let default = match value {
        Value::Object(section) => {
            for (key, value) in section {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                settings(&key, value, found);
            }
            return;
        }
        Value::Null => "–".to_owned(),
        Value::Array(list) if list.is_empty() => "–".to_owned(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    found.insert(prefix.to_owned(), default);
}

#[test]
fn every_setting_is_in_the_table_with_its_variable_and_its_default() {
    let defaults: Value = Figment::from(Yaml::string(config::DEFAULTS)).extract().unwrap();
    let mut expected = BTreeMap::new();
    settings("", &defaults, &mut expected);

    let rows = table("Configuration");
    let written: BTreeMap<_, _> =
        rows.iter().map(|row| (code(row[0]).to_owned(), row[2].to_owned())).collect();
    assert_eq!(written, expected);
    for row in rows {
        assert_eq!(
            code(row[1]),
            code(row[0]).to_uppercase().replace('.', "__"),
            "the variable of {}",
            row[0]
        );
    }
}

#[test]
fn every_key_of_the_sections_that_have_no_default_is_mentioned() {
    let (_, example) = config::DEFAULTS.split_once("# The section `auth` in full").unwrap();
    let keys = example.lines().filter_map(|line| {
        let (key, _) = line.trim_start_matches(['#', ' ', '-']).split_once(':')?;
        key.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
            .then_some(key)
    });
    let (_, section) = README.split_once("\n## Configuration\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    for key in keys.filter(|key| !["auth", "tokens", "jwt", "private_reads"].contains(key)) {
        assert!(section.contains(&format!("`{key}`")), "`{key}`");
    }
}

#[test]
fn every_request_is_in_the_table_with_the_scope_it_needs() {
    let api: Value = serde_json::from_str(&http::openapi()).unwrap();
    let mut expected = BTreeMap::new();
    for (path, operations) in api["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            // An empty requirement: a token is looked at only where reads are private.
            let scope = match operation["security"].as_array() {
                None => "–",
                Some(security) if security.contains(&json!({})) => "read",
                Some(_) if method == "delete" => "delete",
                Some(_) => "write",
            };
            expected.insert(format!("{} {path}", method.to_uppercase()), scope);
        }
    }
    let written: BTreeMap<_, _> = table("API").iter().map(|row| (code(row[0]).to_owned(), row[1])).collect();
    assert_eq!(written, expected);
}

#[test]
fn every_log_event_is_in_the_table() {
    let mut expected = BTreeSet::new();
    events(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut expected);
    let written: BTreeSet<_> = table("Log").iter().map(|row| code(row[0]).to_owned()).collect();
    assert_eq!(written, expected);
}

#[test]
fn every_metric_is_in_the_guides_table_with_its_type_and_labels() {
    let described = Metrics::on().described().iter();
    let expected: Vec<_> = described
        .map(|metric| {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
            (metric.name.clone(), metric.kind.to_owned(), labels)
        })
        .collect();
    let rows = table_in(GUIDE, "Metrics");
    let written: Vec<_> = rows
        .iter()
        .map(|row| {
            // A label's values stand behind it, in brackets.
            let labels: Vec<_> =
                row[2].split("), ").map(|label| label.split(" (").next().unwrap_or_default()).collect();
            (format!("release_server_{}", code(row[0])), row[1].to_owned(), labels.join(", "))
        })
        .collect();
    assert_eq!(written, expected);
}

#[test]
fn the_incident_table_names_metrics_and_events_that_exist() {
    let metrics: BTreeSet<_> = Metrics::on().described().iter().map(|metric| metric.name.as_str()).collect();
    let known = |name: &str| {
        let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
        metrics.contains(name) || base.is_some_and(|base| metrics.contains(base))
    };
    let words = GUIDE.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    for name in words.filter(|word| word.starts_with("release_server_") && *word != "release_server_") {
        assert!(known(name), "`{name}`");
    }
}

#[test]
fn every_threat_names_a_test_that_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (_, section) = THREATS.split_once("\n## Threat, defence, test\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| threat |"));
    let mut named = 0;
    for row in rows {
        let tests = row.trim_matches('|').split(" | ").nth(2).unwrap();
        for test in tests.split('`').skip(1).step_by(2).filter(|code| code.contains("::")) {
            let (file, name) = test.split_once("::").unwrap();
            let source =
                fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("`{file}`: {error}"));
            let (_, after) = source
                .split_once(&format!("fn {name}("))
                .unwrap_or_else(|| panic!("there is no test `{test}`"));
            // Not a helper of that name: an attribute stands right before it.
            let before = &source[..source.len() - after.len()];
            let before = before.rsplit_once("fn ").unwrap().0.trim_end_matches("async ").trim_end();
            assert!(before.ends_with(']'), "`{test}` is no test");
            named += 1;
        }
        let files = tests.split('`').skip(1).step_by(2).filter(|code| !code.contains("::"));
        for file in files.filter(|code| code.starts_with("fuzz/") || code.starts_with("tests/")) {
            assert!(root.join(file).is_file(), "there is no `{file}`");
            named += 1;
        }
        let other =
            ["none: ", "`.ci/run ", "`Cargo.toml`"].iter().any(|start| tests.trim_start().starts_with(start));
        assert!(other || tests.contains("::") || tests.contains("fuzz/"), "no test: {row}");
    }
    assert!(named > 60, "only {named} tests are named");
}

/// The events that the sources below `folder` log, tests aside.
fn events(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            events(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).unwrap();
            let code = source.split("#[cfg(test)]\nmod ").next().unwrap();
            let names = code.split("event = \"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }
}
