//! Digests in files, as `sha256sum` writes and checks them: made on request, unless an asset has that very name.

use crate::releases::record::Record;

/// The digests of all assets.
pub(super) const ALL: &str = "SHA256SUMS";

/// What the file `name` of a release would say; `None` if it is none of digests.
pub(super) fn of(record: &Record, name: &str) -> Option<String> {
    let line = |asset: &crate::releases::record::Asset| format!("{}  {}\n", asset.sha256, asset.name);
    if name == ALL {
        return Some(record.assets.iter().map(line).collect());
    }
    record.asset(name.strip_suffix(".sha256")?).map(line)
}
