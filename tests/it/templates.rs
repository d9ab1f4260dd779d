//! The 34 archives of a Spec Kit release, made by the same script that the README's first session runs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/make-templates.py");

/// Writes the archives to `directory` and returns their paths, in the order of the agents; `sh` before `ps`.
pub(crate) fn archives(directory: &Path) -> Vec<PathBuf> {
    let made = Command::new("python3").arg(SCRIPT).arg(directory).output().expect("`python3` is needed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let paths = String::from_utf8(made.stdout).expect("the paths are UTF-8");
    paths.lines().map(PathBuf::from).collect()
}

/// Unpacks an archive as `specify init` does, with Python's `zipfile`; fails if a byte of it is wrong.
pub(crate) fn unzip(archive: &Path, directory: &Path) {
    let arguments = [Path::new("-m"), Path::new("zipfile"), Path::new("-e"), archive, directory];
    let done = Command::new("python3").args(arguments).output().expect("`python3` is needed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_archives_are_whole_and_always_the_same() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let paths = archives(one.path());
    assert_eq!(paths.len(), 34);
    for (first, second) in paths.iter().zip(archives(two.path())) {
        assert_eq!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap());
    }

    assert_eq!(paths[0].file_name().unwrap(), "spec-kit-template-claude-sh-v0.0.91.zip");
    unzip(&paths[0], one.path());
    assert!(one.path().join(".specify/scripts/bash/create-new-feature.sh").is_file());
    assert!(one.path().join(".claude/commands/speckit.specify.md").is_file());
}
