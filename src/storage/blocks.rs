//! Memory for the blocks that files are read in, used again: fresh memory costs a page fault every 4 KiB, a tenth of
//! what sending a large file takes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// How much of a file is read, and of an upload written, at once, in bytes. Blocks under 256 KiB cost a third of the
/// throughput.
pub(super) const BLOCK_BYTES: usize = 512 * 1024;

/// How many that nobody uses are kept.
const SPARE: usize = 16;

/// Blocks that nobody uses at the moment. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks(Arc<Mutex<Vec<Vec<u8>>>>);

impl Blocks {
    /// An empty block with room for `length` bytes.
    pub(super) fn take(&self, length: usize) -> Block {
        // A small file gets what it needs: it may stay in the cache.
        let used = if length == BLOCK_BYTES { self.spare().pop() } else { None };
        Block { bytes: used.unwrap_or_else(|| Vec::with_capacity(length)), home: self.clone() }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block in use. Dropped, its memory can be used again.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    home: Blocks,
}

impl From<Block> for Bytes {
    fn from(block: Block) -> Self {
        Self::from_owner(block)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut spare = self.home.spare();
        if self.bytes.capacity() == BLOCK_BYTES && spare.len() < SPARE {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.clear();
            spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_and_no_more_than_some_are_kept() {
        let blocks = Blocks::default();
        let mut block = blocks.take(BLOCK_BYTES);
        block.bytes.extend_from_slice(b"first");
        let bytes = Bytes::from(block);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(part, "irst");
        assert!(blocks.spare().is_empty(), "a part of it is in use");
        drop(part);
        assert_eq!(blocks.spare().len(), 1);
        assert!(blocks.take(BLOCK_BYTES).bytes.is_empty());

        let many: Vec<Block> = (0..2 * SPARE).map(|_| blocks.take(BLOCK_BYTES)).collect();
        drop(many);
        drop(blocks.take(7));
        assert_eq!(blocks.spare().len(), SPARE);
    }
}
