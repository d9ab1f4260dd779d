//! Files that the kernel has in memory: opened and read at once, by whoever asks.
//!
//! To hand a call to a thread that may wait for the disk costs several times what the call does. Linux can be told not to
//! wait: a path is resolved from names in memory or not at all (openat2(2), `RESOLVE_CACHED`), and a read gives bytes of the
//! page cache or none (preadv2(2), `RWF_NOWAIT`). `None` says that it did not work out, not why: then the way by a thread is
//! to be gone, which finds out.
//!
//! Only on local file systems: others may ask a server about what is in memory, too.

use std::{fs::File, sync::Arc};

#[cfg(target_os = "linux")]
pub(super) use linux::{open, read_at};
#[cfg(not(target_os = "linux"))]
pub(super) use nothing::{open, read_at};

/// A file on a local disk, as an extension of what was found.
#[derive(Debug, Clone)]
pub(super) struct Opened(pub(super) Arc<File>);

/// Whether the kernel has a range of a file in memory, as far as a look here and there tells.
pub(crate) fn is_in_memory(file: &File, range: &std::ops::Range<u64>) -> bool {
    /// How far the looks are from each other, in bytes.
    const STEP: usize = 256 * 1024;
    let last = range.end.saturating_sub(1);
    range.clone().step_by(STEP).chain([last]).all(|offset| read_at(file, &mut [0], offset).is_some())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs::{File, Metadata},
        io::IoSliceMut,
        path::Path,
    };

    use rustix::{
        fs::{CWD, Mode, OFlags, ResolveFlags, fstatfs, openat2},
        io::{Errno, ReadWriteFlags, preadv2},
    };

    use crate::storage::local::is_local;

    /// Opens the regular file at `path` below the folder `root`, reached without a link or another disk.
    pub(in crate::storage) fn open(root: &Path, path: &str) -> Option<(File, Metadata)> {
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat2(CWD, root, folder, Mode::empty(), ResolveFlags::CACHED).ok()?;
        if !is_local(&fstatfs(&root).ok()?) {
            return None;
        }
        // Not waiting for the other end of a pipe.
        let file = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = File::from(openat2(&root, path, file, Mode::empty(), within | ResolveFlags::CACHED).ok()?);
        let metadata = file.metadata().ok()?;
        metadata.is_file().then_some((file, metadata))
    }

    /// Reads what is at `offset`, as far as it is in memory; says how many bytes that were, one at least.
    pub(in crate::storage) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> Option<usize> {
        let mut bytes = [IoSliceMut::new(bytes)];
        loop {
            match preadv2(file, &mut bytes, offset, ReadWriteFlags::NOWAIT) {
                Err(Errno::INTR) => {}
                read => return read.ok().filter(|read| *read > 0),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod nothing {
    use std::{
        fs::{File, Metadata},
        path::Path,
    };

    /// Other systems are for development: a thread does it.
    pub(in crate::storage) fn open(_: &Path, _: &str) -> Option<(File, Metadata)> {
        None
    }

    pub(in crate::storage) fn read_at(_: &File, _: &mut [u8], _: u64) -> Option<usize> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::symlink,
        path::Path,
    };

    use rustix::fs::{Advice, CWD, FileType, Mode, fadvise, mknodat};

    use super::*;

    #[test]
    fn only_regular_files_below_the_folder_are_opened_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("repos/acme")).unwrap();
        fs::write(root.join("repos/acme/app.zip"), "bytes").unwrap();
        fs::write(folder.path().join("outside"), "secret").unwrap();
        symlink(folder.path().join("outside"), root.join("link")).unwrap();
        symlink(root.join("repos"), root.join("folder-link")).unwrap();
        mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();

        let (_, metadata) = open(&root, "repos/acme/app.zip").expect("it was just written, on a local disk");
        assert_eq!(metadata.len(), 5);
        for path in
            ["missing", "repos", "link", "folder-link/acme/app.zip", "../outside", "/etc/hostname", "pipe"]
        {
            assert!(open(&root, path).is_none(), "{path}");
        }
        symlink(&root, folder.path().join("root-link")).unwrap();
        assert!(open(&folder.path().join("root-link"), "repos/acme/app.zip").is_some());
    }

    #[test]
    fn what_may_have_to_be_asked_for_is_not_opened() {
        assert!(open(Path::new("/proc"), "version").is_none());
        assert!(open(Path::new("/"), "proc/version").is_none(), "another file system below");
    }

    #[test]
    fn bytes_come_from_memory_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![7; 100_000]).unwrap();
        let file = File::open(&path).unwrap();
        let mut bytes = [0; 1000];
        assert_eq!(read_at(&file, &mut bytes, 98_000), Some(1000));
        assert_eq!(bytes, [7; 1000]);
        assert_eq!(read_at(&file, &mut bytes, 99_500), Some(500), "up to the end");
        assert_eq!(read_at(&file, &mut bytes, 100_000), None, "nothing is there");

        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(read_at(&file, &mut bytes, 50_000), None, "it is on the disk alone");
    }
}
