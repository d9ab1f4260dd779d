//! What is counted, asked for as Prometheus does.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Client;
use tempfile::TempDir;

use super::{
    program::Program,
    server::{DEADLINE, TOKEN},
};

struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(program: &Program) -> Self {
        let url = format!("http://{}/metrics", program.started["metrics"].as_str().unwrap());
        let answer = reqwest::get(url).await.unwrap();
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series = series.map(|line| line.rsplit_once(' ').unwrap());
        Self(series.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect())
    }

    #[track_caller]
    fn get(&self, series: &str) -> f64 {
        let found = self.0.get(&format!("release_server_{series}"));
        *found.unwrap_or_else(|| panic!("no `{series}` among {:#?}", self.0.keys()))
    }
}

fn measured(folder: &TempDir, variables: &[(&str, &str)]) -> Program {
    let all = [&[("METRICS__BIND_ADDRESS", "127.0.0.1:0")], variables].concat();
    Program::configured(folder.path(), &all)
}

#[tokio::test]
async fn what_happens_is_counted() {
    let folder = TempDir::new().unwrap();
    let program = measured(&folder, &[("RETENTION__INTERVAL", "off")]);
    let client = Client::new();
    let at = |path: &str| format!("{}{path}", program.url);
    let put = |name: &str| client.put(at(&format!("/assets/{name}"))).bearer_auth(TOKEN).body("abcde");
    for (request, status) in [
        (put("a.zip"), 200),
        (put("a.zip"), 409),
        (put("a.zip").query(&[("overwrite", "true")]), 200),
        (put("b.zip").query(&[("sha256", "0".repeat(64))]), 422),
        (client.put(at("/assets/c.zip")).bearer_auth("wrong"), 401),
        (client.get(at("/api/v3/user")), 401),
        (client.get(at("/assets/a.zip")), 200),
        (client.get(at("/assets/a.zip")), 200),
        (client.get(at("/assets/a.zip")), 200),
        (client.get(at("/assets/none.zip")), 404),
        (client.get(at("/latest")), 200),
        (client.get(at("/no/such/route")), 404),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status);
        answer.bytes().await.unwrap();
    }
    // A request is counted when its answer has been handed over, which a client may see before.
    let counted = |scrape: &Scrape| {
        scrape.0.contains_key(
            r#"release_server_http_requests_total{method="GET",route="unmatched",status="404"}"#,
        )
    };
    let began = std::time::Instant::now();
    let scrape = loop {
        let scrape = Scrape::of(&program).await;
        if counted(&scrape) {
            break scrape;
        }
        assert!(began.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };

    for (series, value) in [
        (r#"http_requests_total{method="PUT",route="/assets/{name}",status="200"}"#, 2.0),
        (r#"http_requests_total{method="PUT",route="/assets/{name}",status="409"}"#, 1.0),
        (r#"http_requests_total{method="GET",route="/assets/{name}",status="200"}"#, 3.0),
        (r#"http_request_duration_seconds_count{method="GET",route="/assets/{name}"}"#, 4.0),
        (
            r#"http_sent_bytes_total{method="GET",route="/assets/{name}"}"#,
            15.0 + f64::from(problem("none.zip")),
        ),
        ("http_requests_in_flight", 0.0),
        (r#"uploads_total{outcome="created"}"#, 1.0),
        (r#"uploads_total{outcome="replaced"}"#, 1.0),
        (r#"uploads_total{outcome="conflict"}"#, 1.0),
        (r#"uploads_total{outcome="rejected"}"#, 1.0),
        ("uploaded_bytes_total", 10.0),
        (r#"auth_failures_total{reason="invalid"}"#, 1.0),
        (r#"auth_failures_total{reason="missing"}"#, 1.0),
        (r#"cache_requests_total{outcome="miss"}"#, 2.0),
        (r#"cache_requests_total{outcome="hit"}"#, 1.0),
        ("cache_bytes", 5.0),
        (r#"packages{state="listed"}"#, 1.0),
        (r#"package_bytes{state="listed"}"#, 5.0),
        (r#"packages{state="hidden"}"#, 0.0),
        (r#"storage_operations_total{operation="put",outcome="conflict"}"#, 0.0),
        ("connections_limit", 8192.0),
        ("cache_limit_bytes", 33_554_432.0),
    ] {
        assert!(
            (scrape.get(series) - value).abs() < 1e-9,
            "{series}: {} instead of {value}",
            scrape.get(series)
        );
    }
    assert!(scrape.get(r#"http_received_bytes_total{method="PUT",route="/assets/{name}"}"#) >= 15.0);
    assert!(scrape.get(r#"storage_operations_total{operation="put",outcome="ok"}"#) >= 4.0);
    assert!(scrape.get(r#"storage_operations_total{operation="head",outcome="missing"}"#) >= 2.0);
    assert!(scrape.get("listing_requests_total") >= scrape.get("listing_flights_total"));
    assert!(scrape.get("listing_flights_total") >= 1.0);
    assert!(scrape.get("connections") >= 1.0);
}

/// How long the answer to a request for a missing package is.
fn problem(name: &str) -> u16 {
    let text = format!(
        "{{\n  \"message\": \"package `{name}` does not exist\",\n  \"documentation_url\": \"/docs\"\n}}\n"
    );
    u16::try_from(text.len()).unwrap()
}

#[tokio::test]
async fn a_sweep_is_counted_with_its_reasons() {
    let folder = TempDir::new().unwrap();
    let program = measured(&folder, &[("MAX_PACKAGES", "1")]);
    let client = Client::new();
    for name in ["a.zip", "b.zip", "c.zip"] {
        let put = client.put(format!("{}/assets/{name}", program.url)).bearer_auth(TOKEN).body("abc");
        assert_eq!(put.send().await.unwrap().status(), 200);
    }
    let began = std::time::Instant::now();
    let scrape = loop {
        let scrape = Scrape::of(&program).await;
        if scrape.get("sweep_kept_packages") > 0.0
            && scrape.get(r#"sweep_removed_total{reason="max_packages"}"#) >= 2.0
        {
            break scrape;
        }
        assert!(began.elapsed() < DEADLINE, "{:#?}", scrape.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!((scrape.get("sweep_removed_bytes_total") - 6.0).abs() < 1e-9);
    assert!(scrape.get("sweep_last_success_timestamp_seconds") > 1e9);
    assert!(scrape.get(r#"sweeps_total{outcome="ok"}"#) >= 1.0);
}

#[tokio::test]
async fn there_is_nothing_but_metrics_at_their_port_and_no_metrics_at_the_servers() {
    let folder = TempDir::new().unwrap();
    let program = measured(&folder, &[]);
    let metrics = program.started["metrics"].as_str().unwrap();
    for url in [format!("http://{metrics}/latest"), format!("{}/metrics", program.url)] {
        assert_eq!(reqwest::get(url).await.unwrap().status(), 404);
    }
    assert!(Program::start(folder.path()).started["metrics"].is_null());
}
