//! What the targets in `fuzz/` reach that no request reaches alone; there is no such module in a server.

/// The notes of a release as HTML.
pub fn markdown(notes: &str) -> String {
    super::pages::markdown(notes)
}
