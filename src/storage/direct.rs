//! Writing past the page cache (open(2), `O_DIRECT`).
//!
//! A large upload that goes through the page cache is copied once more, throws out what others download, counts against
//! the memory limit of a container, and leaves the disk idle until the end: the final sync then takes most of the time.
//! Straight to the disk there is no such copy, and the sync has nothing left to write. In exchange, who downloads it first
//! waits for the disk.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
#[cfg(target_os = "linux")]
use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use object_store::PutPayload;
#[cfg(target_os = "linux")]
use rustix::fs::OFlags;

/// What memory, offsets and lengths must be multiples of, in bytes: no disk in use asks for more than a page.
const ALIGNMENT: usize = 4096;

/// The most that is written at once, in bytes.
pub(super) const MOST_BYTES: usize = 1024 * 1024;

/// How many writes can be under way; of those beyond, the page cache takes care. So all uploads together need no more
/// memory for this than 16 MiB.
const MOST_WRITES: usize = 16;

/// How many blocks that nobody uses are kept.
const SPARE: usize = 4;

/// A second descriptor of a file, for whole aligned blocks.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    memory: AlignedBlocks,
}

impl Direct {
    /// Opens a file that is there; `None` where the system or its file system knows no such writing.
    #[cfg(target_os = "linux")]
    pub(super) fn open(path: &Path, memory: &AlignedBlocks) -> Option<Self> {
        let flags = OFlags::DIRECT | OFlags::NOFOLLOW;
        let file = OpenOptions::new().write(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
        Some(Self { file, memory: memory.clone() })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn open(_: &Path, _: &AlignedBlocks) -> Option<Self> {
        None
    }

    /// Writes `data` at `offset` if it can be written so, and says whether it was. If not, the page cache is the way.
    pub(super) fn write_all_at(&self, data: &PutPayload, offset: u64) -> io::Result<bool> {
        let length = data.content_length();
        if length > MOST_BYTES
            || !length.is_multiple_of(ALIGNMENT)
            || !offset.is_multiple_of(ALIGNMENT as u64)
        {
            return Ok(false);
        }
        let Some(mut block) = self.memory.take() else { return Ok(false) };
        let written = self.file.write_all_at(block.fill(data), offset);
        self.memory.put_back(block);
        match written {
            // A disk that asks for more than a page, or a file system that finds out only now.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            written => written.map(|()| true),
        }
    }
}

/// Memory for the writes of all uploads. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct AlignedBlocks(Arc<Mutex<Shelf>>);

#[derive(Debug, Default)]
struct Shelf {
    spare: Vec<AlignedBlock>,
    in_use: usize,
}

impl AlignedBlocks {
    /// A block; `None` if as many are in use as may be.
    fn take(&self) -> Option<AlignedBlock> {
        let mut shelf = self.shelf();
        if shelf.in_use == MOST_WRITES {
            return None;
        }
        shelf.in_use += 1;
        Some(shelf.spare.pop().unwrap_or_else(AlignedBlock::new))
    }

    fn put_back(&self, block: AlignedBlock) {
        let mut shelf = self.shelf();
        shelf.in_use -= 1;
        if shelf.spare.len() < SPARE {
            shelf.spare.push(block);
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory that begins at a multiple of [`ALIGNMENT`].
#[derive(Debug)]
struct AlignedBlock {
    memory: Vec<u8>,
    /// Where in `memory` it begins.
    start: usize,
}

impl AlignedBlock {
    fn new() -> Self {
        let memory: Vec<u8> = Vec::with_capacity(MOST_BYTES + ALIGNMENT);
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start }
    }

    /// Copies `data` in, [`MOST_BYTES`] at most: more would move the memory.
    fn fill(&mut self, data: &PutPayload) -> &[u8] {
        self.memory.clear();
        self.memory.resize(self.start, 0);
        for bytes in data {
            self.memory.extend_from_slice(bytes);
        }
        &self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_block_stays_aligned() {
        let mut block = AlignedBlock::new();
        for length in [ALIGNMENT, MOST_BYTES, 2 * ALIGNMENT] {
            let bytes = Bytes::from(vec![7; length]);
            let payload = PutPayload::from_iter([bytes.slice(..1), bytes.slice(1..)]);
            let filled = block.fill(&payload);
            assert_eq!(filled, &bytes);
            assert_eq!(filled.as_ptr().align_offset(ALIGNMENT), 0);
        }
    }

    #[test]
    fn so_many_blocks_are_in_use_at_most_and_few_are_kept() {
        let memory = AlignedBlocks::default();
        let blocks: Vec<_> = std::iter::from_fn(|| memory.take()).collect();
        assert_eq!(blocks.len(), MOST_WRITES);
        for block in blocks {
            memory.put_back(block);
        }
        let Shelf { spare, in_use } = std::mem::take(&mut *memory.shelf());
        assert_eq!((spare.len(), in_use), (SPARE, 0));
        assert!(memory.take().is_some());
    }

    #[test]
    fn what_is_not_aligned_is_left_to_the_page_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [1; 3 * ALIGNMENT]).unwrap();
        let Some(direct) = Direct::open(&path, &AlignedBlocks::default()) else {
            return eprintln!("SKIPPED: {} knows no direct writing", folder.path().display());
        };
        let write = |length, offset| direct.write_all_at(&vec![2; length].into(), offset).unwrap();
        assert!(!write(ALIGNMENT, 1));
        assert!(!write(ALIGNMENT - 1, 0));
        assert!(!write(MOST_BYTES + ALIGNMENT, 0));
        assert_eq!(fs::read(&path).unwrap(), [1; 3 * ALIGNMENT]);
        assert!(write(ALIGNMENT, ALIGNMENT as u64));
        assert_eq!(fs::read(&path).unwrap(), [[1; ALIGNMENT], [2; ALIGNMENT], [1; ALIGNMENT]].concat());
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
        assert!(Direct::open(&folder.path().join("link"), &AlignedBlocks::default()).is_none());
    }
}
