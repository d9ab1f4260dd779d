//! Whether folders are still as they were listed: asked of the kernel, not of the disk.
//!
//! Linux queues a note of every change in a watched folder (inotify(7)) *within* the system call that makes it, while
//! that call still holds the folder: no listing shows the change before the note is there, and whoever made the
//! change has it behind them when their call returns. So an empty queue proves that a listing still holds, to this
//! process and to every other one on the machine, at the price of one `read` that finds nothing.
//!
//! - Only where this kernel makes every change: a local file system. On others (NFS, FUSE, overlays, …) nothing is
//!   proved, and the folder is listed each time.
//! - What leaves no note is a write into a file by a memory map or by a hard link in another folder, and another folder
//!   put in the place of a watched one. So a proof is to be renewed by a listing now and then.

use std::path::Path;

/// The state of the watched folders; equal ones are the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64);

#[cfg(target_os = "linux")]
pub(super) use linux::Watch;
#[cfg(not(target_os = "linux"))]
pub(super) use nothing::Watch;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        os::fd::OwnedFd,
        sync::{
            Mutex, PoisonError,
            atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        },
    };

    use rustix::{
        fs::{
            inotify::{self, CreateFlags, WatchFlags},
            statfs,
        },
        io::{Errno, ioctl_fionread, read},
    };

    use super::{Generation, Path};
    use crate::storage::local::is_local;

    /// Room for the longest note.
    const NOTES: usize = 1024;

    /// Folders being watched.
    #[derive(Debug)]
    pub(in crate::storage) struct Watch(Option<Queue>);

    #[derive(Debug)]
    struct Queue {
        notes: OwnedFd,
        /// Odd while somebody takes notes from the queue; even, it is the state when they were last taken.
        generation: AtomicU64,
        /// Whether all folders are watched.
        proves: AtomicBool,
        /// Held by whoever takes notes.
        turn: Mutex<()>,
        /// The watch of each folder, as it was last begun. Held while the disk is waited for.
        watched: Mutex<Vec<i32>>,
    }

    impl Watch {
        /// Watches nothing yet. Without inotify, which the system has only so many of, it never will.
        pub(in crate::storage) fn new() -> Self {
            let notes = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
            if let Err(error) = &notes {
                tracing::debug!(event = "watch", %error, "changes are not watched, the directory is listed each time");
            }
            let queue = |notes| Queue {
                notes,
                generation: AtomicU64::new(0),
                proves: AtomicBool::new(false),
                turn: Mutex::new(()),
                watched: Mutex::default(),
            };
            Self(notes.ok().map(queue))
        }

        /// Watches the folders that lie under these paths now, and says which state they are in: a listing begun after
        /// this shows that state or a later one. `None` where a change could go unseen.
        ///
        /// May wait for the disk.
        pub(in crate::storage) fn begin(&self, folders: &[&Path]) -> Option<Generation> {
            self.0.as_ref()?.begin(folders)
        }

        /// The state the folders are in. Waits for no disk.
        pub(in crate::storage) fn generation(&self) -> Option<Generation> {
            let queue = self.0.as_ref()?;
            queue.untouched().or_else(|| queue.read(false))
        }
    }

    impl Queue {
        fn begin(&self, folders: &[&Path]) -> Option<Generation> {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.watch(folders).unwrap_or_default();
            let others = now != *watched;
            if others {
                for old in watched.iter().filter(|old| !now.contains(old)) {
                    // It has gone with its folder, or now.
                    let _ = inotify::remove_watch(&self.notes, *old);
                }
                self.proves.store(!now.is_empty(), SeqCst);
                *watched = now;
            }
            self.read(others)
        }

        fn watch(&self, folders: &[&Path]) -> Result<Vec<i32>, Errno> {
            let changes = WatchFlags::ATTRIB
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MODIFY
                | WatchFlags::MOVE
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR;
            let watch = |folder: &&Path| {
                if !is_local(&statfs(*folder)?) {
                    return Err(Errno::NOTSUP);
                }
                inotify::add_watch(&self.notes, *folder, changes)
            };
            folders.iter().map(watch).collect()
        }

        /// The state, if nothing is noted. Without a lock: those who serve ask at every request.
        ///
        /// Whoever takes a note has made the generation odd before; so where the queue is empty, and after that the
        /// generation even, it counts every note so far.
        fn untouched(&self) -> Option<Generation> {
            if ioctl_fionread(&self.notes) != Ok(0) {
                return None;
            }
            let generation = self.generation.load(SeqCst);
            (generation.is_multiple_of(2) && self.proves.load(SeqCst)).then_some(Generation(generation))
        }

        /// Takes what is noted, and says what state that makes, or that the folders are `others`.
        fn read(&self, others: bool) -> Option<Generation> {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let before = self.generation.load(SeqCst);
            self.generation.store(before + 1, SeqCst);
            let mut changed = others;
            let mut notes = [0; NOTES];
            let taken = loop {
                match read(&self.notes, &mut notes) {
                    Err(Errno::INTR) => {}
                    Ok(_) => changed = true,
                    ended => break ended == Err(Errno::WOULDBLOCK),
                }
            };
            let after = if changed { before + 2 } else { before };
            self.generation.store(after, SeqCst);
            (taken && self.proves.load(SeqCst)).then_some(Generation(after))
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod nothing {
    use super::{Generation, Path};

    /// Other systems are for development: each listing looks at the disk.
    #[derive(Debug)]
    pub(in crate::storage) struct Watch;

    impl Watch {
        pub(in crate::storage) fn new() -> Self {
            Self
        }

        pub(in crate::storage) fn begin(&self, _: &[&Path]) -> Option<Generation> {
            None
        }

        pub(in crate::storage) fn generation(&self) -> Option<Generation> {
            None
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::{self, File, OpenOptions, Permissions},
        io::Write as _,
        os::unix::fs::PermissionsExt as _,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
        thread,
        time::SystemTime,
    };

    use super::*;

    #[test]
    fn every_change_in_a_folder_moves_its_generation_and_nothing_else_does() {
        let root = tempfile::tempdir().unwrap();
        let (folder, other) = (root.path().join("packages"), root.path().join("other"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&other).unwrap();
        let file = |name: &str| folder.join(name);
        let watch = Watch::new();
        assert_eq!(watch.generation(), None, "nothing is watched yet");
        let Some(mut before) = watch.begin(&[&folder]) else {
            panic!("the temporary directory ({}) is on no local file system", root.path().display());
        };
        assert_eq!(watch.begin(&[&folder]), Some(before), "watching again is no change");

        let mut changes = |change: &str, make: &dyn Fn()| {
            make();
            let after = watch.generation().unwrap();
            assert_ne!(after, before, "{change}");
            assert_eq!(watch.generation(), Some(after), "{change}, seen once");
            before = after;
        };
        changes("create", &|| drop(File::create(file("a")).unwrap()));
        changes("write", &|| fs::write(file("a"), "bytes").unwrap());
        changes("append", &|| {
            OpenOptions::new().append(true).open(file("a")).unwrap().write_all(b"!").unwrap();
        });
        changes("truncate", &|| OpenOptions::new().write(true).open(file("a")).unwrap().set_len(1).unwrap());
        changes("chmod", &|| fs::set_permissions(file("a"), Permissions::from_mode(0o600)).unwrap());
        changes("touch", &|| {
            OpenOptions::new()
                .write(true)
                .open(file("a"))
                .unwrap()
                .set_modified(SystemTime::UNIX_EPOCH)
                .unwrap();
        });
        changes("rename", &|| fs::rename(file("a"), file("b")).unwrap());
        changes("move away", &|| fs::rename(file("b"), other.join("b")).unwrap());
        changes("move in", &|| fs::rename(other.join("b"), file("b")).unwrap());
        changes("link", &|| fs::hard_link(file("b"), file("c")).unwrap());
        changes("unlink", &|| fs::remove_file(file("c")).unwrap());
        changes("a folder", &|| fs::create_dir(file("d")).unwrap());

        fs::read(file("b")).unwrap();
        fs::read_dir(&folder).unwrap().for_each(drop);
        fs::write(other.join("e"), "elsewhere").unwrap();
        assert_eq!(watch.generation(), Some(before), "reading, and writing elsewhere, change nothing");

        fs::remove_file(file("b")).unwrap();
        fs::rename(&folder, root.path().join("away")).unwrap();
        fs::create_dir(&folder).unwrap();
        let replaced = watch.begin(&[&folder]);
        assert!(replaced.is_some() && replaced != Some(before));
        File::create(file("in the new folder")).unwrap();
        assert_ne!(watch.generation(), replaced);
    }

    #[test]
    fn whoever_asks_after_a_change_sees_it_however_many_ask() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new();
        let mut before = watch.begin(&[folder.path()]).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(Relaxed) {
                        watch.generation();
                    }
                });
            }
            for index in 0..20_000 {
                File::create(folder.path().join(format!("{}", index % 100))).unwrap();
                let after = watch.generation().unwrap();
                assert_ne!(after, before, "change {index}");
                before = after;
            }
            done.store(true, Relaxed);
        });
    }

    #[test]
    fn more_changes_than_the_kernel_notes_are_a_change_too() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new();
        let before = watch.begin(&[folder.path()]).unwrap();
        // The queue holds 16,384 notes unless the operator raised it.
        for index in 0..10_000 {
            let file = folder.path().join(index.to_string());
            File::create(&file).unwrap();
            fs::remove_file(&file).unwrap();
        }
        let after = watch.generation().unwrap();
        assert_ne!(after, before);
        File::create(folder.path().join("one more")).unwrap();
        assert_ne!(watch.generation(), Some(after));
    }

    #[test]
    fn nothing_is_proved_of_what_is_missing_or_not_on_a_disk_of_this_machine() {
        let watch = Watch::new();
        assert_eq!(watch.begin(&[Path::new("/proc")]), None);
        let folder = tempfile::tempdir().unwrap();
        assert!(watch.begin(&[folder.path()]).is_some());
        assert_eq!(watch.begin(&[folder.path(), &folder.path().join("missing")]), None);
        assert_eq!(watch.generation(), None);
    }
}
