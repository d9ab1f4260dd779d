//! Which file systems are this machine's own: nobody else changes them, and what the kernel has of them in memory holds.

use rustix::fs::StatFs;

/// By their magic numbers (statfs(2)): Btrfs, ext2 to ext4, F2FS, tmpfs, XFS, ZFS.
const LOCAL: [u32; 6] = [0x9123_683e, 0xef53, 0xf2f5_2010, 0x0102_1994, 0x5846_5342, 0x2fc1_2fc1];

/// Whether a file system is one that this kernel alone knows about.
pub(super) fn is_local(found: &StatFs) -> bool {
    u32::try_from(found.f_type).is_ok_and(|kind| LOCAL.contains(&kind))
}
