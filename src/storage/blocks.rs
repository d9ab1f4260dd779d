//! Memory for the blocks that files are read in, used again: fresh memory costs a page fault every 4 KiB, a tenth of
//! what sending a large file takes.
//!
//! Each reader who is slow to take a block holds it meanwhile. When many do, the next blocks are small ones, so that a
//! thousand slow readers cost tens of megabytes and not half a gigabyte.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much of a file is read at once, in bytes. Blocks under 256 KiB cost a third of the
/// throughput.
pub(super) const BLOCK_BYTES: usize = 512 * 1024;

/// How much of all blocks together may be large ones, in bytes: 32 readers' worth.
const PLENTY: usize = 32 * BLOCK_BYTES;

/// As much at once while [`PLENTY`] is in use: half of the throughput more than with small ones.
const MEDIUM_BYTES: usize = 64 * 1024;

/// And while this much is, in bytes.
const MUCH: usize = PLENTY + 256 * MEDIUM_BYTES;
const SMALL_BYTES: usize = 16 * 1024;

/// From how many bytes on a read takes a whole block.
const WORTH_A_BLOCK: usize = 128 * 1024;

/// How many are filled at a time. More threads read no disk faster, and each takes memory of its own.
const READERS: usize = 64;

/// How many that nobody uses are kept.
const SPARE: usize = 16;

/// The blocks of a directory. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Blocks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Those that may be filled.
    readers: Arc<Semaphore>,
    /// Those that nobody uses at the moment.
    spare: Mutex<Vec<Box<[u8]>>>,
    /// What the others hold, in bytes.
    used: AtomicUsize,
}

impl Default for Blocks {
    fn default() -> Self {
        let readers = Arc::new(Semaphore::new(READERS));
        Self(Arc::new(Inner { readers, spare: Mutex::default(), used: AtomicUsize::new(0) }))
    }
}

impl Blocks {
    /// Waits until one more may be filled; that is so for as long as the result is kept.
    pub(super) async fn reader(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.0.readers).acquire_owned().await.ok()
    }

    /// A block with room for the next of `left` bytes: all of them, or as many as there is memory for. It counts
    /// from here on, so it is to be taken before the bytes are waited for.
    pub(super) fn take(&self, left: u64) -> Block {
        let most = match self.0.used.load(Relaxed) {
            ..PLENTY => BLOCK_BYTES,
            PLENTY..MUCH => MEDIUM_BYTES,
            _ => SMALL_BYTES,
        };
        let length = usize::try_from(left).map_or(most, |left| left.min(most));
        // Fresh memory for a small file costs less than a large block that a slow reader keeps.
        let capacity = if length >= WORTH_A_BLOCK { BLOCK_BYTES } else { length };
        self.0.used.fetch_add(capacity, Relaxed);
        let again = if capacity == BLOCK_BYTES { self.spare().pop() } else { None };
        let bytes = again.unwrap_or_else(|| vec![0; capacity].into());
        Block { bytes, length, home: self.clone() }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.0.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block in use. Dropped, its memory can be used again, with what it held.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Box<[u8]>,
    /// How many bytes are to be read, or were.
    length: usize,
    home: Blocks,
}

impl Block {
    /// Where to put the bytes.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// The block with as many bytes as were put there.
    pub(super) fn filled(mut self, bytes: usize) -> Bytes {
        self.length = bytes.min(self.length);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.home.0.used.fetch_sub(self.bytes.len(), Relaxed);
        let mut spare = self.home.spare();
        if self.bytes.len() == BLOCK_BYTES && spare.len() < SPARE {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_and_no_more_than_some_are_kept() {
        let blocks = Blocks::default();
        let mut block = blocks.take(1 << 30);
        block.room()[..5].copy_from_slice(b"first");
        let bytes = block.filled(5);
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(part, "irst");
        assert!(blocks.spare().is_empty(), "a part of it is in use");
        drop(part);
        assert_eq!(blocks.spare().len(), 1);
        assert_eq!(blocks.take(1 << 30).length, BLOCK_BYTES);

        let many: Vec<Block> = (0..2 * SPARE).map(|_| blocks.take(1 << 30)).collect();
        drop(many);
        drop(blocks.take(7));
        assert_eq!(blocks.spare().len(), SPARE);
    }

    #[test]
    fn many_who_hold_blocks_get_small_ones() {
        let blocks = Blocks::default();
        let held: Vec<Block> = (0..1000).map(|_| blocks.take(1 << 30)).collect();
        let bytes: usize = held.iter().map(|block| block.bytes.len()).sum();
        assert!((MUCH..MUCH + 1000 * SMALL_BYTES).contains(&bytes), "{bytes}");
        drop(held);
        assert_eq!(blocks.take(1 << 30).length, BLOCK_BYTES);
    }
}
