//! Names of markers: what is read as one is exactly what one is called.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use release_server::marker::Marker;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    let Some(marker) = Marker::parse(text) else { return Corpus::Keep };
    assert_eq!(marker.to_string(), text);
    // One with quotes of its own, which no marker of ours has, describes nothing.
    let quoted = format!("\"{}\"", marker.etag);
    assert_eq!(marker.describes(&quoted, marker.size), marker.etag.trim_matches('"') == marker.etag);
    assert!(!marker.describes(&marker.etag, marker.size.wrapping_add(1)));
    // What a listing makes of it.
    let _ = (marker.rank(), marker.time.to_rfc3339());
    Corpus::Keep
});
