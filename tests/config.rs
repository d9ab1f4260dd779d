//! What a configuration may say, who wins, and how a wrong one is refused.

#![expect(clippy::unwrap_used, reason = "a failed `unwrap` is a failed test")]

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use release_server::{
    auth::Scope,
    config::{Config, DEFAULTS, Loaded, LogFormat, Secret, load_from, storage_path},
};
use tempfile::TempDir;

/// Loads with this file at the default place and these variables.
fn load(file: &str, variables: &[(&str, &str)]) -> anyhow::Result<Loaded> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("config.yaml");
    fs::write(&path, file).unwrap();
    load_from(environment(variables), &path)
}

fn environment(variables: &[(&str, &str)]) -> Vec<(String, OsString)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect()
}

fn config(file: &str, variables: &[(&str, &str)]) -> Config {
    load(file, variables).unwrap_or_else(|error| panic!("{file:?} {variables:?}: {error:#}")).config
}

/// The refusal, with the file's folder cut.
fn refusal(file: &str, variables: &[(&str, &str)]) -> String {
    let error = format!("{:#}", load(file, variables).map(|loaded| loaded.config).unwrap_err());
    match (error.find("`/"), error.find("config.yaml`")) {
        (Some(start), Some(end)) => format!("{}`{}", &error[..start], &error[end..]),
        _ => error,
    }
}

fn token(config: &Config) -> Option<&str> {
    config.auth_token.as_ref().map(Secret::reveal)
}

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn the_defaults_are_what_the_manual_says() {
    let loaded = load_from([], Path::new("/nonexistent/config.yaml")).unwrap();
    assert_eq!(loaded.file, None);
    let config = loaded.config;
    assert_eq!(config.bind_address.to_string(), "0.0.0.0");
    assert_eq!(config.port, 8000);
    assert_eq!(config.storage_path, None);
    assert_eq!(config.auth_token, None);
    assert_eq!(config.max_packages, None);
    assert_eq!(config.public_url, None);
    assert_eq!(config.max_upload_bytes, 2_147_483_648);
    assert_eq!(config.listing_max_age, Duration::ZERO);
    assert_eq!(config.cache.total_bytes, 33_554_432);
    assert_eq!(config.cache.max_package_bytes, 4_194_304);
    assert_eq!(config.retention.interval, Some(SECONDS(3600)));
    assert_eq!(config.retention.versions_per_family, 0);
    assert_eq!(config.retention.max_age, None);
    assert_eq!(config.server.header_timeout, SECONDS(30));
    assert_eq!(config.server.stall_timeout, SECONDS(60));
    assert_eq!(config.server.shutdown_grace, SECONDS(30));
    assert_eq!(config.server.max_connections, 8192);
    assert_eq!(config.server.max_requests, 2048);
    assert!(config.server.trusted_proxies.is_empty());
    assert!(!config.auth.private_reads);
    assert!(config.auth.tokens.is_empty());
    assert!(config.auth.jwt.is_none());
    assert_eq!(config.log.level, "info");
    assert_eq!(config.log.format, LogFormat::Auto);
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let file = "port: 9000\nmax_packages: 5\nserver: {max_requests: 7, max_connections: 8}";
    let config = config(file, &[("PORT", "9001"), ("SERVER__MAX_REQUESTS", "9")]);
    assert_eq!((config.port, config.max_packages), (9001, Some(5)));
    assert_eq!((config.server.max_requests, config.server.max_connections), (9, 8));
    assert_eq!(config.server.stall_timeout, SECONDS(60));
}

#[test]
fn the_five_variables_of_the_old_server_work_in_any_case() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("mine.yaml");
    fs::write(&file, "log: {level: debug}").unwrap();
    for case in [str::to_uppercase, str::to_lowercase] {
        let variables = [
            ("auth_token", "s3cret"),
            ("max_packages", "0"),
            ("storage_path", "/srv/packages"),
            ("port", "0"),
            ("config_path", file.to_str().unwrap()),
        ];
        let variables = variables.map(|(name, value)| (case(name), OsString::from(value)));
        let loaded = load_from(variables, Path::new("/nonexistent")).unwrap();
        assert_eq!(loaded.file.as_ref(), Some(&file));
        assert_eq!(token(&loaded.config), Some("s3cret"));
        assert_eq!(loaded.config.max_packages, Some(0));
        assert_eq!(loaded.config.storage_path, Some(PathBuf::from("/srv/packages")));
        assert_eq!(loaded.config.port, 0);
        assert_eq!(loaded.config.log.level, "debug");
    }
}

#[test]
fn of_two_variables_that_differ_in_case_the_upper_one_wins() {
    for variables in [[("port", "1"), ("PORT", "2")], [("PORT", "2"), ("port", "1")]] {
        assert_eq!(config("", &variables).port, 2);
    }
}

#[test]
fn every_type_of_setting_can_be_a_variable() {
    let config = config(
        "",
        &[
            ("BIND_ADDRESS", "::1"),
            ("PUBLIC_URL", "https://example.com/specs"),
            ("LISTING_MAX_AGE", "500ms"),
            ("RETENTION__INTERVAL", "off"),
            ("RETENTION__MAX_AGE", "90d"),
            ("AUTH__PRIVATE_READS", "true"),
            ("LOG__FORMAT", "json"),
            (
                "AUTH__TOKENS",
                r#"[{"name": "ci", "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "scopes": ["read", "write"]}]"#,
            ),
            ("AUTH__JWT", r#"{"issuer": "https://ci", "audience": "us", "algorithms": ["HS256"]}"#),
            ("AUTH__JWT__SECRET", "12345"),
        ],
    );
    assert_eq!(config.bind_address.to_string(), "::1");
    assert_eq!(config.public_url.unwrap().as_str(), "https://example.com/specs/");
    assert_eq!(config.listing_max_age, Duration::from_millis(500));
    assert_eq!((config.retention.interval, config.retention.max_age), (None, Some(SECONDS(90 * 86400))));
    assert!(config.auth.private_reads);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.auth.tokens[0].scopes, [Scope::Read, Scope::Write]);
    let jwt = config.auth.jwt.unwrap();
    assert_eq!(
        (jwt.issuer.as_str(), jwt.audience, jwt.leeway),
        ("https://ci", vec!["us".to_owned()], SECONDS(60))
    );
    assert_eq!(jwt.secret.unwrap().reveal(), "12345");
}

#[test]
fn a_list_may_be_json_or_comma_separated() {
    for text in [r#"["10.0.0.0/8", "fd00::/8", "192.0.2.7"]"#, "10.0.0.0/8,fd00::/8, 192.0.2.7"] {
        let proxies = config("", &[("SERVER__TRUSTED_PROXIES", text)]).server.trusted_proxies;
        let proxies: Vec<_> = proxies.iter().map(ToString::to_string).collect();
        assert_eq!(proxies, ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"], "{text}");
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let config =
        config("auth_token: from-file\nport: 9000", &[("AUTH_TOKEN", ""), ("PORT", ""), ("CONFIG_PATH", "")]);
    assert_eq!((token(&config), config.port), (Some("from-file"), 9000));
}

#[test]
fn a_token_stays_the_text_it_was_written_as() {
    for text in ["12345", "true", "null", "0x1F", "007", "1e5", "1.50", "[1]", "{}", "a,b"] {
        assert_eq!(token(&config("", &[("AUTH_TOKEN", text)])), Some(text));
    }
    for text in ["12345", "true", "0x1F", "007", "1e5", "1.50", "1_000", "\"null\"", "'~'"] {
        let secret = format!(
            "auth_token: {text}\nauth: {{jwt: {{issuer: i, audience: a, algorithms: HS256, secret: {text}}}}}"
        );
        let config = config(&secret, &[]);
        let bare = text.trim_matches(['"', '\'']);
        assert_eq!(token(&config), Some(bare));
        assert_eq!(config.auth.jwt.unwrap().secret.unwrap().reveal(), bare);
    }
    assert_eq!(token(&config("auth_token: null", &[])), None);
}

#[test]
fn variables_of_others_are_ignored() {
    let variables = [
        ("MAX_PACKAGE", "x"),
        ("SERVER_PORT", "tcp://10.0.0.1:80"),
        ("LOG", "x"),
        ("AUTH", "x"),
        ("OTHER__PORT", "x"),
    ];
    assert_eq!(config("", &variables).port, 8000);
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_utf8_is_refused_only_where_it_is_ours() {
    use std::os::unix::ffi::OsStringExt as _;

    let load = |name: &str| {
        let variable = (name.to_owned(), OsString::from_vec(vec![b'a', 0xFF]));
        load_from([variable], Path::new("/nonexistent/config.yaml"))
    };
    assert!(load("OTHER").is_ok());
    assert_eq!(load("AUTH_TOKEN").unwrap_err().to_string(), "the value of `AUTH_TOKEN` is not valid UTF-8");
}

#[test]
fn a_file_of_comments_or_with_empty_sections_changes_nothing() {
    for file in ["", "# nothing here\n", "server:\n  # max_requests: 1\nauth:\nport: 8000\n"] {
        assert_eq!(config(file, &[]).server.max_requests, 2048, "{file}");
    }
    assert_eq!(config("retention: {interval: null}", &[]).retention.interval, None);
}

#[test]
fn a_missing_file_is_an_error_only_where_it_was_asked_for() {
    let path = Path::new("/nonexistent/config.yaml");
    assert!(load_from([], path).is_ok());
    let error = load_from(environment(&[("Config_Path", "/nonexistent/mine.yaml")]), path).unwrap_err();
    let error = format!("{error:#}");
    let expected =
        "cannot read the configuration file `/nonexistent/mine.yaml` named by `CONFIG_PATH`: No such file";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    for (file, expected) in [
        ("max_package: 5", "unknown key `max_package` in file `config.yaml`; did you mean `max_packages`?"),
        ("maxPackages: 5", "unknown key `maxPackages` in file `config.yaml`; did you mean `max_packages`?"),
        ("PORT: 5", "unknown key `PORT` in file `config.yaml`; did you mean `port`?"),
        (
            "server: {max_conections: 5}",
            "unknown key `server.max_conections` in file `config.yaml`; did you mean `server.max_connections`?",
        ),
        ("max_age: 5d", "unknown key `max_age` in file `config.yaml`; did you mean `retention.max_age`?"),
        ("log: {port: 5}", "unknown key `log.port` in file `config.yaml`; did you mean `port`?"),
        (
            "auth: {tokens: [{name: a, scope: [read]}]}",
            "unknown key `auth.tokens.0.scope` in file `config.yaml`; did you mean `auth.tokens.0.scopes`?",
        ),
        (
            "log: {colour: red}",
            "unknown key `log.colour` in file `config.yaml`; known here: `level`, `format`",
        ),
    ] {
        assert_eq!(refusal(file, &[]), expected);
    }
    for (name, value, expected) in [
        (
            "SERVER__MAX_CONECTIONS",
            "5",
            "unknown variable `SERVER__MAX_CONECTIONS`; did you mean `SERVER__MAX_CONNECTIONS`?",
        ),
        (
            "retention__max_agee",
            "5",
            "unknown variable `retention__max_agee`; did you mean `RETENTION__MAX_AGE`?",
        ),
        (
            "AUTH__JWT",
            r#"{"isuer": "x"}"#,
            "unknown key `auth.jwt.isuer` in variable `AUTH__JWT`; did you mean `auth.jwt.issuer`?",
        ),
    ] {
        assert_eq!(refusal("", &[(name, value)]), expected);
    }
}

#[test]
fn a_wrong_value_in_the_file_is_refused_with_its_key_and_what_is_wanted() {
    for (file, expected) in [
        ("port: 65536", "`port` is `65536` (file `config.yaml`): it must be a whole number from 0 to 65535"),
        ("port: [1]", "`port` is `[1]` (file `config.yaml`): it must be a whole number from 0 to 65535"),
        ("port:", "`port` is `null` (file `config.yaml`): it must be a whole number from 0 to 65535"),
        (
            "max_packages: -1",
            "`max_packages` is `-1` (file `config.yaml`): it must be a whole number, 0 or more",
        ),
        (
            "max_packages: 1.5",
            "`max_packages` is `1.5` (file `config.yaml`): it must be a whole number, 0 or more",
        ),
        (
            "storage_path: 7",
            "`storage_path` is `7` (file `config.yaml`): it must be a text; put it in quotes",
        ),
        ("server: 7", "`server` is `7` (file `config.yaml`): it must be a section with keys of its own"),
        (
            "listing_max_age: 30",
            "`listing_max_age` is `30` (file `config.yaml`): it must be a duration with its unit, such as `30s`, \
             `12h` or `90d`",
        ),
        (
            "listing_max_age: off",
            "`listing_max_age` is `off` (file `config.yaml`): it must be a duration with its unit, such as `30s`, \
             `12h` or `90d`",
        ),
        (
            "log: {format: xml}",
            "`log.format` is `xml` (file `config.yaml`): it must be one of `auto`, `json`, `text`",
        ),
        (
            "auth: {tokens: [{name: a, sha256: b, scopes: [read, wirte]}]}",
            "`auth.tokens.0.scopes.1` is `wirte` (file `config.yaml`): it must be one of `read`, `write`, `delete`",
        ),
        ("auth: {jwt: {issuer: i}}", "`auth.jwt` (file `config.yaml`) needs `audience`"),
        (
            "auth_token: [hunter2]",
            "`auth_token` is [hidden] (file `config.yaml`): it must be a text; put it in quotes",
        ),
        ("[1, 2]", "in `config.yaml`: invalid type: sequence, expected a map"),
    ] {
        assert_eq!(refusal(file, &[]), expected);
    }
    let error = refusal("port: 1\n  bind_address: 2", &[]);
    assert!(error.starts_with("in `config.yaml`: ") && error.contains("line 2"), "{error}");
}

#[test]
fn a_wrong_value_in_a_variable_is_refused_with_its_name_and_what_is_wanted() {
    for (name, value, expected) in [
        ("PORT", "http", "`port` is `http` (variable `PORT`): it must be a whole number from 0 to 65535"),
        (
            "Max_Packages",
            "many",
            "`max_packages` is `many` (variable `Max_Packages`): it must be a whole number, 0 or more",
        ),
        (
            "BIND_ADDRESS",
            "everywhere",
            "`bind_address` is `everywhere` (variable `BIND_ADDRESS`): it must be an IP address, such as \
             `0.0.0.0`, `127.0.0.1` or `::`",
        ),
        (
            "AUTH__PRIVATE_READS",
            "maybe",
            "`auth.private_reads` is `maybe` (variable `AUTH__PRIVATE_READS`): it must be `true` or `false`",
        ),
        (
            "RETENTION__MAX_AGE",
            "5 parsecs",
            "`retention.max_age` is `5 parsecs` (variable `RETENTION__MAX_AGE`): it must be a duration with its unit, \
             such as `30s`, `12h` or `90d`",
        ),
        (
            "SERVER__TRUSTED_PROXIES",
            "10.0.0.0/8,proxy",
            "`server.trusted_proxies` is `10.0.0.0/8,proxy` (variable `SERVER__TRUSTED_PROXIES`): `proxy` is no \
             network; write it as `10.0.0.0/8` or `fd00::/8`",
        ),
        (
            "AUTH__JWT",
            r#"{"secret": "hunter2""#,
            "`auth.jwt` is [hidden] (variable `AUTH__JWT`): it must be a section with keys of its own",
        ),
        (
            "LOG__LEVEL",
            "inof",
            "`log.level` is `inof` (variable `LOG__LEVEL`): `inof` is no level; write `error`, `warn`, `info`, \
             `debug`, `trace` or `off`, or by module `info,release_server=debug`",
        ),
    ] {
        assert_eq!(refusal("", &[(name, value)]), expected);
    }
}

#[test]
fn a_value_that_makes_no_sense_is_refused() {
    let sha256 = "0".repeat(64);
    let twins = format!(
        "auth: {{tokens: [{{name: a, sha256: '{sha256}', scopes: [read]}}, {{name: a, sha256: '{sha256}', scopes: [read]}}]}}"
    );
    for (file, key, reason) in [
        ("auth_token: ''", "auth_token", "it is empty; remove it, or set a value"),
        ("auth_token: ' '", "auth_token", "it is empty; remove it, or set a value"),
        ("auth_token: \"a\\n\"", "auth_token", "it must not begin or end with white space"),
        ("public_url: ftp://a.example", "public_url", "it must begin with `http://` or `https://`"),
        (
            "public_url: releases.example.com",
            "public_url",
            "it must be a URL that begins with `https://` or `http://`",
        ),
        ("public_url: https://a.example/?b", "public_url", "it must have no query and no fragment"),
        ("public_url: https://a.example/#b", "public_url", "it must have no query and no fragment"),
        (
            "public_url: https://u:hunter2@a.example/",
            "public_url",
            "it must have no user name and no password",
        ),
        (
            "storage_url: s3://key:hunter2@releases/",
            "storage_url",
            "it must have no user name and no password",
        ),
        (
            "redirect_endpoint: s3://a.example",
            "redirect_endpoint",
            "it must begin with `http://` or `https://`",
        ),
        ("max_upload_bytes: 0", "max_upload_bytes", "it must be more than 0"),
        ("cache: {max_package_bytes: 0}", "cache.max_package_bytes", "it must be more than 0"),
        ("cache: {total_bytes: 5}", "cache.max_package_bytes", "it must be at most `cache.total_bytes`, 5"),
        ("retention: {interval: 0s}", "retention.interval", "it must be more than `0s`"),
        ("server: {header_timeout: 0s}", "server.header_timeout", "it must be more than `0s`"),
        ("server: {max_requests: 0}", "server.max_requests", "it must be more than 0"),
        (
            "auth: {tokens: [{name: a, sha256: abc, scopes: [read]}]}",
            "auth.tokens.0.sha256",
            "it must be 64 hex digits",
        ),
        (twins.as_str(), "auth.tokens.1.name", "another token has this name already"),
        (
            "auth: {jwt: {issuer: i, audience: a, algorithms: HS256}}",
            "auth.jwt",
            "needs exactly one of `secret`, `public_key_file`, `jwks_file` and `jwks_url`",
        ),
    ] {
        let error = refusal(file, &[]);
        assert!(error.starts_with(&format!("`{key}` ")) && error.contains(reason), "{file}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert_eq!(config("cache: {total_bytes: 0}", &[]).cache.total_bytes, 0);
}

#[test]
fn a_public_url_ends_in_one_slash() {
    for (given, kept) in [
        ("https://a.example", "https://a.example/"),
        ("https://a.example/", "https://a.example/"),
        ("http://a.example:81/specs", "http://a.example:81/specs/"),
        ("http://a.example:81/specs/", "http://a.example:81/specs/"),
    ] {
        assert_eq!(config("", &[("PUBLIC_URL", given)]).public_url.unwrap().as_str(), kept);
    }
}

#[test]
fn claims_of_a_rule_may_be_numbers_and_have_dots_in_their_names() {
    let file = "auth: {jwt: {issuer: i, audience: a, algorithms: HS256, secret: s, \
                rules: [{claims: {repository_id: 74, trusted: true, a.b/c: d}, scopes: write}]}}";
    let rule = &config(file, &[]).auth.jwt.unwrap().rules[0];
    let claims: Vec<_> = rule.claims.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(claims, [("a.b/c", "d"), ("repository_id", "74"), ("trusted", "true")]);
    assert_eq!(rule.scopes, [Scope::Write]);
}

#[test]
fn the_example_at_the_end_of_the_manual_is_valid() {
    let (_, example) = DEFAULTS.split_once("# auth:\n").unwrap();
    let lines = example.lines().map(|line| line.strip_prefix("# ").expect("the example goes to the end"));
    let auth = config(&format!("auth:\n{}", lines.collect::<Vec<_>>().join("\n")), &[]).auth;
    assert_eq!(auth.tokens[0].name, "ci");
    assert_eq!(auth.jwt.unwrap().rules.len(), 1);
}

#[test]
fn the_storage_path_is_the_one_set_else_one_that_is_there() {
    let set = config("", &[("STORAGE_PATH", "somewhere")]);
    assert_eq!(storage_path(&set), (PathBuf::from("somewhere"), "`storage_path` is set"));
    let fallback = if Path::new("/data").is_dir() { "/data" } else { "./data" };
    assert_eq!(storage_path(&config("", &[])).0, Path::new(fallback));
}

const SECRETS: &str = "auth_token: hunter2\nauth:\n  tokens: [{name: ci, sha256: \
                       9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08, scopes: [write]}]\n  \
                       jwt: {issuer: i, audience: a, algorithms: [HS256], secret: hunter3}\n";

#[test]
fn no_secret_shows_in_debug() {
    let loaded = load(SECRETS, &[("AUTH_TOKEN", "hunter4")]).unwrap();
    let debug = format!("{loaded:?} {:#?}", loaded.config);
    assert!(!debug.contains("hunter"), "{debug}");
    assert!(debug.contains("[hidden]"), "{debug}");
}

#[test]
fn the_description_has_every_key_its_value_and_its_origin_but_no_secret() {
    let loaded = load(SECRETS, &[("PORT", "9000"), ("storage_path", "/srv/packages")]).unwrap();
    let file = format!("file `{}`", loaded.file.as_ref().unwrap().display());
    let text = loaded.describe();
    assert!(!text.contains("hunter") && !text.contains("9f86d081"), "{text}");
    let rows: Vec<Vec<_>> = text
        .lines()
        .skip(2)
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    for row in [
        ["port", "9000", "variable `PORT`"],
        ["storage_path", "/srv/packages", "variable `storage_path`"],
        ["auth_token", "[hidden]", file.as_str()],
        ["auth.jwt.secret", "[hidden]", file.as_str()],
        ["auth.jwt.algorithms", r#"["HS256"]"#, file.as_str()],
        ["auth.tokens.0.name", "ci", file.as_str()],
        ["auth.tokens.0.sha256", "[hidden]", file.as_str()],
        ["auth.jwt.leeway", "1m", "default"],
        ["max_packages", "null", "default"],
        ["retention.interval", "1h", "default"],
        ["server.trusted_proxies", "[]", "default"],
    ] {
        assert!(rows.iter().any(|found| *found == row), "{row:?} is not in\n{text}");
    }
    let origin = text.lines().find(|line| line.starts_with("cache.total_bytes")).unwrap().find("default");
    let aligned =
        text.lines().filter(|line| line.ends_with("  default")).all(|line| line.find("default") == origin);
    assert!(aligned, "{text}");
}
