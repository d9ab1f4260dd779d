//! GraphQL, in the words of the clients that ask it.

use axum::http::Method;
use serde_json::{Value, json};

use super::server::{Answer, Server, TOKEN, text};

const BY_TAG: &str = "query RepositoryReleaseByTag($owner:String!$name:String!$tagName:String!)\
    {repository(owner: $owner, name: $name){release(tagName: $tagName){databaseId,isDraft}}}";

const LIST: &str = "query RepositoryReleaseList($direction:OrderDirection!$endCursor:String$name:String!$owner:String!\
    $perPage:Int!){repository(owner: $owner, name: $name){releases(first: $perPage, orderBy: {field: CREATED_AT, \
    direction: $direction}, after: $endCursor){nodes{name,tagName,isDraft,immutable,isLatest,isPrerelease,createdAt,\
    publishedAt},pageInfo{hasNextPage,endCursor}}}}";

/// What the tools of GraphQL ask.
const SCHEMA: &str = "query IntrospectionQuery { __schema { description queryType { name kind } mutationType { name kind } \
    subscriptionType { name kind } types { ...FullType } directives { name description isRepeatable locations \
    args(includeDeprecated: true) { ...InputValue } } } } fragment FullType on __Type { kind name description \
    specifiedByURL isOneOf fields(includeDeprecated: true) { name description args(includeDeprecated: true) \
    { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason } inputFields(includeDeprecated: true) \
    { ...InputValue } interfaces { ...TypeRef } enumValues(includeDeprecated: true) { name description isDeprecated \
    deprecationReason } possibleTypes { ...TypeRef } } fragment InputValue on __InputValue { name description type \
    { ...TypeRef } defaultValue isDeprecated deprecationReason } fragment TypeRef on __Type { kind name ofType { kind name \
    ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name \
    ofType { kind name ofType { kind name } } } } } } } } } }";

impl Server {
    async fn ask(&self, token: Option<&str>, query: &str, variables: Value) -> Answer {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let call = self.call(Method::POST, "/api/graphql").body(body);
        match token {
            Some(token) => call.bearer(token).await,
            None => call.without_token().await,
        }
    }

    async fn publish(&self, fields: Value) -> Value {
        let call = self.call(Method::POST, "/api/v3/repos/acme/app/releases").bearer(TOKEN);
        let answer = call.body(fields.to_string()).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }
}

fn by_tag(tag: &str) -> Value {
    json!({ "owner": "acme", "name": "app", "tagName": tag })
}

#[tokio::test]
async fn a_draft_is_found_by_its_tag() {
    let server = Server::start();
    server.publish(json!({ "tag_name": "v1" })).await;
    let draft = server.publish(json!({ "tag_name": "v2", "draft": true })).await;

    let found = server.ask(Some(TOKEN), BY_TAG, by_tag("v2")).await.ok();
    assert_eq!(found.header("content-type"), "application/json; charset=utf-8");
    let release = json!({ "databaseId": draft["id"], "isDraft": true });
    assert_eq!(found.json(), json!({ "data": { "repository": { "release": release } } }));

    let nothing = json!({ "data": { "repository": { "release": null } } });
    for token in [None, Some("ghp_foreign")] {
        assert_eq!(server.ask(token, BY_TAG, by_tag("v2")).await.ok().json(), nothing);
    }
    assert_eq!(server.ask(Some(TOKEN), BY_TAG, by_tag("..")).await.ok().json(), nothing);
    let published = server.ask(None, BY_TAG, by_tag("v1")).await.ok().json();
    assert_eq!(published["data"]["repository"]["release"]["isDraft"], false);
}

#[tokio::test]
async fn releases_are_listed_page_by_page() {
    let server = Server::start();
    for number in 1..=5 {
        let (tag, draft) = (format!("v{number}"), number == 5);
        server.publish(json!({ "tag_name": tag, "draft": draft, "prerelease": number == 4 })).await;
    }
    let pages = async |token: Option<&'static str>, direction: &str| {
        let (mut tags, mut cursor, mut latest) = (Vec::new(), Value::Null, Vec::new());
        loop {
            let variables = json!({ "owner": "acme", "name": "app", "perPage": 2, "endCursor": cursor,
                "direction": direction });
            let answer = server.ask(token, LIST, variables).await.ok().json();
            let releases = &answer["data"]["repository"]["releases"];
            for node in releases["nodes"].as_array().unwrap() {
                let keys: Vec<_> = node.as_object().unwrap().keys().map(String::as_str).collect();
                let asked = "name tagName isDraft immutable isLatest isPrerelease createdAt publishedAt";
                assert_eq!(keys, asked.split(' ').collect::<Vec<_>>());
                tags.push(text(&node["tagName"]));
                latest.extend((node["isLatest"] == true).then(|| text(&node["tagName"])));
                assert_eq!(node["publishedAt"].is_null(), node["isDraft"] == true);
                assert!(text(&node["createdAt"]).ends_with('Z'), "{node}");
            }
            if releases["pageInfo"]["hasNextPage"] == false {
                return (tags.join(" "), latest.join(" "));
            }
            cursor = releases["pageInfo"]["endCursor"].clone();
            // What comes in between belongs to another page.
            if token.is_none() && direction == "DESC" && tags.len() == 2 {
                server.publish(json!({ "tag_name": "v6", "make_latest": "false" })).await;
            }
        }
    };
    assert_eq!(pages(Some(TOKEN), "DESC").await, ("v5 v4 v3 v2 v1".into(), "v3".into()));
    assert_eq!(pages(None, "ASC").await, ("v1 v2 v3 v4".into(), "v3".into()));
    assert_eq!(pages(None, "DESC").await, ("v4 v3 v2 v1".into(), "v3".into()));
}

#[tokio::test]
async fn aliases_are_honoured() {
    let server = Server::start();
    let release = server.publish(json!({ "tag_name": "v1.2.3", "name": "First", "body": "*Notes*" })).await;
    let upload = format!("/api/uploads/repos/acme/app/releases/{}/assets?name=a.zip", release["id"]);
    server.call(Method::POST, &upload).bearer(TOKEN).body("bytes").await;
    let query = "query($owner: String!, $name: String!, $cursor: String, $count: Int!) { \
        repository(owner: $owner, name: $name) { isRepoPrivate: isPrivate payload: releases(first: $count, \
        after: $cursor, orderBy: {field: CREATED_AT, direction: DESC}) { pageInfo { hasNextPage endCursor } \
        nodes { version: tagName releaseTimestamp: publishedAt isDraft isPrerelease url id: databaseId name \
        description descriptionHTML author { login } releaseAssets(first: 5) { totalCount nodes { name size digest \
        downloadUrl } } } } tag: ref(qualifiedName: \"refs/tags/v1.2.3\") { name } other: ref(qualifiedName: \
        \"tags/v2\") { id } latestRelease { ...shown } } } fragment shown on Release { __typename tagName }";
    let variables = json!({ "owner": "Acme", "name": "App", "cursor": null, "count": 100 });
    let answer = server.ask(None, query, variables).await.ok().text().to_owned();
    let (id, at) = (release["id"].to_string(), text(&release["published_at"]));
    let shown: Value = serde_json::from_str(&answer.replace(&id, "1").replace(&at, "TIME")).unwrap();
    let filters = vec![(r#""endCursor": "[^"]+""#, r#""endCursor": "CURSOR""#)];
    // Fields are resolved at once, and answered in the order they are done.
    insta::with_settings!({ filters => filters, sort_maps => true }, { insta::assert_json_snapshot!(shown) });
}

#[tokio::test]
async fn the_schema_can_be_asked_for() {
    let server = Server::start();
    let query = "query Release_fields{Release:__type(name: \"Release\"){fields{name}}}";
    let answer = server.ask(None, query, json!({})).await.ok().json();
    let fields = answer["data"]["Release"]["fields"].as_array().unwrap();
    assert!(fields.contains(&json!({ "name": "immutable" })), "{answer}");

    let deep = "query { __schema { types { name fields(includeDeprecated: true) { args { type { ...t } } type { ...t } } \
        } } } fragment t on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { \
        kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } }";
    for query in [deep, SCHEMA] {
        let answer = server.ask(None, query, json!({})).await.ok().json();
        assert!(answer["errors"].is_null(), "{}", answer["errors"]);
    }
}

#[tokio::test]
async fn the_schema_is_told_again_and_again_only_so_often() {
    let server = Server::start();
    let ask = async |times: usize| {
        let fields: Vec<String> = (0..times).map(|index| format!("a{index}:description ")).collect();
        let query = "{__schema{types{fields{AGAIN}}}}".replace("AGAIN", &fields.concat());
        server.ask(None, &query, json!({})).await.ok()
    };
    // Fifty kilobytes, which would be told as more than ten megabytes.
    let refused = ask(3000).await;
    assert!(refused.body.len() < 1000, "{} bytes", refused.body.len());
    assert!(text(&refused.json()["errors"][0]["message"]).contains("too long"));
    let most = ask(298).await;
    assert!(most.json()["errors"].is_null() && most.body.len() < 4 << 20, "{} bytes", most.body.len());
}

#[tokio::test]
async fn errors_are_no_more_than_anybody_reads() {
    let server = Server::start();
    let unlike = format!("{{ a: __typename {} }}", "a: viewer { login } ".repeat(200));
    let compared =
        format!("{{ viewer(a: 1, b: 2, c: 3, d: 4, e: 5) {{ login }} {} }}", "viewer { login } ".repeat(200));
    for query in [unlike, compared] {
        let answer = server.ask(Some(TOKEN), &query, json!({})).await.ok().json();
        assert_eq!(answer["errors"].as_array().unwrap().len(), 100, "{query}");
    }
}

#[tokio::test]
async fn what_is_hidden_looks_like_what_is_missing() {
    let server = Server::configured(&[("AUTH_TOKEN", TOKEN)])
        .with(|config| config.auth.private_repositories = vec!["acme/app".into()]);
    server.publish(json!({ "tag_name": "v1" })).await;
    let hidden = server.ask(None, BY_TAG, by_tag("v1")).await.ok().json();
    let missing = json!({ "owner": "acme", "name": "nothing", "tagName": "v1" });
    let missing = server.ask(None, BY_TAG, missing).await.ok().text().replace("nothing", "app");
    assert_eq!(hidden, serde_json::from_str::<Value>(&missing).unwrap());
    assert_eq!(
        (&hidden["data"]["repository"], &hidden["errors"][0]["type"]),
        (&Value::Null, &"NOT_FOUND".into())
    );
    assert_eq!(hidden["errors"][0]["path"], json!(["repository"]));
    let shown = server.ask(Some(TOKEN), BY_TAG, by_tag("v1")).await.ok().json();
    assert_eq!(shown["data"]["repository"]["release"]["isDraft"], false);
}

#[tokio::test]
async fn what_is_hidden_costs_a_look_as_what_is_missing() {
    let server = Server::configured(&[("AUTH_TOKEN", TOKEN)])
        .with(|config| config.auth.private_repositories = vec!["acme/hidden".into()]);
    // A look fails, so that it shows.
    std::fs::write(server.path("repos"), "not a folder").unwrap();
    for name in ["missing", "hidden"] {
        let variables = json!({ "owner": "acme", "name": name, "tagName": "v1" });
        assert_eq!(server.ask(None, BY_TAG, variables).await.status, 503, "{name}");
        for path in ["/api/v3/repos/acme/NAME", "/api/v3/repos/acme/NAME/releases", "/acme/NAME/releases"] {
            assert_eq!(server.get(&path.replace("NAME", name)).await.status, 503, "{path} {name}");
        }
    }
}

#[tokio::test]
async fn who_is_calling_is_told() {
    let server = Server::start();
    let query = "query UserCurrent{viewer{login}}";
    let answer = server.ask(Some(TOKEN), query, json!({})).await.ok().json();
    assert_eq!(answer, json!({ "data": { "viewer": { "login": "auth_token" } } }));
    let refused = server.ask(Some("ghp_foreign"), query, json!({})).await;
    assert_eq!((refused.status, &refused.json()["message"]), (401, &"Bad credentials".into()));
    assert_eq!(server.ask(None, query, json!({})).await.status, 401);
}

#[tokio::test]
async fn a_query_is_as_large_as_it_may_be() {
    let server = Server::start();
    server.publish(json!({ "tag_name": "v1" })).await;
    let all = "{ repository(owner: \"acme\", name: \"app\") { releases(first: 100) { nodes { releaseAssets(first: 100) \
        { nodes { name uploadedBy { login } downloadUrl createdAt updatedAt size } } } } } }";
    let many: Vec<_> =
        (0..20).map(|index| format!("a{index}: repository(owner: \"a\", name: \"b\") {{ id }} ")).collect();
    let many = many.concat();
    let deep =
        format!("{{ __schema {{ types {} {} }} }}", "{ fields { type ".repeat(12), "{ name } } }".repeat(12));
    let unbound = "{ repository(owner: \"acme\", name: \"app\") { releases { nodes { id } } } }";
    let excessive = unbound.replace("releases", "releases(first: 101)");
    for query in
        [all, &format!("{{ {many} }}"), &deep, unbound, &excessive, "{", "", "{ nothing }", "mutation { a }"]
    {
        let answer = server.ask(None, query, json!({})).await.ok().json();
        assert!(answer["errors"][0]["message"].is_string(), "{query}: {answer}");
    }
    let body = server.call(Method::POST, "/api/graphql").body("{").await;
    assert_eq!((body.status, &body.json()["message"]), (400, &"Problems parsing JSON".into()));

    let query = json!({ "query": "{ __typename }" }).to_string();
    let padded = |bytes: usize| format!("{query}{}", " ".repeat(bytes - query.len()));
    server.call(Method::POST, "/api/graphql").body(padded(64 * 1024)).await.ok();
    let body = server.call(Method::POST, "/api/graphql").body(padded(64 * 1024 + 1)).await;
    assert_eq!(body.status, 400, "{body:?}");
    assert!(text(&body.json()["message"]).contains("64 KiB"), "{body:?}");
    // Notes are longer than queries.
    let release = format!("{}{}", json!({ "tag_name": "v2" }), " ".repeat(1_000_000));
    let call = server.call(Method::POST, "/api/v3/repos/acme/app/releases").bearer(TOKEN).body(release);
    assert_eq!(call.await.status, 201);
}

#[tokio::test]
async fn notes_are_told_again_and_again_only_so_often() {
    let server = Server::start();
    server.publish(json!({ "tag_name": "v1", "body": "a".repeat(100_000) })).await;
    for field in ["description", "descriptionHTML"] {
        let ask = async |times: usize| {
            let fields: Vec<String> = (0..times).map(|index| format!("a{index}: {field} ")).collect();
            let release = format!("release(tagName: \"v1\") {{ {} }}", fields.concat());
            let query = format!("{{ repository(owner: \"acme\", name: \"app\") {{ {release} }} }}");
            server.ask(None, &query, json!({})).await
        };
        assert!(ask(10).await.ok().body.len() > 1_000_000);
        let refused = ask(200).await;
        assert_eq!((refused.status, refused.body.len() < 1000), (422, true), "{field}");
        assert!(text(&refused.json()["message"]).contains("too long"));
    }
}

#[tokio::test]
async fn the_host_of_the_api_has_it_too() {
    let server = Server::start();
    server.publish(json!({ "tag_name": "v1" })).await;
    let body = json!({ "query": "{ repository(owner: \"acme\", name: \"app\") { latestRelease { url } } }" });
    let call = server.call(Method::POST, "/graphql").header("host", "api.h.example").body(body.to_string());
    let url = &call.await.ok().json()["data"]["repository"]["latestRelease"]["url"];
    assert_eq!(*url, "http://h.example/acme/app/releases/tag/v1");
}
