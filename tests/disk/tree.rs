//! What a disk may hold after the power went, made from the calls that were recorded before.
//!
//! The model is as harsh as POSIX allows, harsher than the usual file systems are:
//!
//! - The bytes of a file are there once the file was synced; until then the file may be empty, half there or zeroes. Once a
//!   sync of it has failed they never will be, whatever a later one says.
//! - A name is there, or gone, once the folder that has it was synced after; until then each single change of a name may
//!   have happened or not, whatever happened to later ones and to other folders. Only a rename within one folder, over
//!   a name or not, is never half.
//! - Syncing a file says nothing about its name, and syncing a folder nothing about the name of the folder itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    ffi::OsString,
    fs,
    hash::{Hash, Hasher},
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use rand::{RngExt as _, SeedableRng, rngs::StdRng};

use super::trace::{Call, Effect};

type Node = usize;

/// Changes of names that wait in one folder for longer than so many others are over: disks do not wait for ever.
const WAITING: usize = 8;

#[derive(Debug, Clone)]
enum Thing {
    /// Shared by the disks that are made at every call.
    File {
        bytes: Arc<Vec<u8>>,
        durable: Arc<Vec<u8>>,
        dirty: bool,
        failed: bool,
        modified: SystemTime,
    },
    Folder {
        names: Names,
        durable: Names,
        waiting: Vec<Change>,
    },
}

type Names = BTreeMap<OsString, Node>;

/// A name that shall lead to something, or nowhere.
#[derive(Debug, Clone)]
struct Change {
    name: OsString,
    to: Option<Node>,
}

/// A disk, and what of it is durable.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    things: Vec<Thing>,
    by_inode: HashMap<u64, Node>,
}

const ROOT: Node = 0;

/// What becomes of bytes that were written and not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bytes {
    Written,
    /// Those of the last sync.
    Durable,
    Half,
    Zeroes,
}

/// What becomes of all that was not synced.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    pub(crate) name: String,
    /// For each waiting change of a name, in the order of [`Disk::waiting`]: whether it happened.
    happened: Vec<bool>,
    bytes: Bytes,
}

impl Fate {
    /// Of names nothing is kept that was not synced, or of bytes.
    pub(crate) fn is_extreme(&self) -> bool {
        self.happened.iter().all(|happened| !happened)
            || self.bytes == Bytes::Zeroes && self.happened.iter().all(|happened| *happened)
    }
}

impl Disk {
    /// An empty folder that is durable.
    pub(crate) fn new(root: &Path) -> Self {
        let folder = Thing::Folder { names: Names::new(), durable: Names::new(), waiting: Vec::new() };
        let inode = fs::metadata(root).unwrap().ino();
        Self { things: vec![folder], by_inode: HashMap::from([(inode, ROOT)]) }
    }

    /// What two processes have made of such a folder, of which the first began, and then the second, and then the first
    /// went on until it had nothing more to do. `starts`: with how many calls they began.
    pub(crate) fn of_two(root: &Path, starts: (usize, usize), calls: (&[Call], &[Call])) -> Self {
        let mut disk = Self::new(root);
        let ((start, rest), (other_start, other_rest)) =
            (calls.0.split_at(starts.0), calls.1.split_at(starts.1));
        for call in [start, other_start, rest, other_rest].into_iter().flatten() {
            disk.apply(call);
        }
        disk
    }

    /// Goes on by one call.
    pub(crate) fn apply(&mut self, call: &Call) {
        match call.effect.as_ref() {
            None | Some(Effect::Answered(_)) => {}
            Some(Effect::Made { path, inode, folder }) => {
                let thing = if *folder {
                    Thing::Folder { names: Names::new(), durable: Names::new(), waiting: Vec::new() }
                } else {
                    Thing::File {
                        bytes: Arc::default(),
                        durable: Arc::default(),
                        dirty: false,
                        failed: false,
                        modified: call.time,
                    }
                };
                self.things.push(thing);
                self.by_inode.insert(*inode, self.things.len() - 1);
                self.name(path, Some(self.things.len() - 1));
            }
            Some(Effect::Wrote { inode, offset, bytes: new }) => {
                let Some(Thing::File { bytes, dirty, modified, .. }) = self.by_inode(*inode) else { return };
                let start = usize::try_from(*offset).unwrap();
                let bytes = Arc::make_mut(bytes);
                bytes.resize(bytes.len().max(start + new.len()), 0);
                bytes[start..start + new.len()].copy_from_slice(new);
                (*dirty, *modified) = (true, call.time);
            }
            Some(Effect::Resized { inode, size }) => {
                let Some(Thing::File { bytes, dirty, modified, .. }) = self.by_inode(*inode) else { return };
                Arc::make_mut(bytes).resize(usize::try_from(*size).unwrap(), 0);
                (*dirty, *modified) = (true, call.time);
            }
            Some(Effect::Synced { inode }) => match self.by_inode(*inode) {
                Some(Thing::File { failed: true, .. }) | None => {}
                Some(Thing::File { bytes, durable, dirty, .. }) => {
                    durable.clone_from(bytes);
                    *dirty = false;
                }
                Some(Thing::Folder { names, durable, waiting }) => {
                    durable.clone_from(names);
                    waiting.clear();
                }
            },
            Some(Effect::Unsynced { inode }) => {
                if let Some(Thing::File { dirty, failed, .. }) = self.by_inode(*inode) {
                    *failed = *dirty;
                }
            }
            Some(Effect::Linked { from, to }) => {
                let node = self.find(from);
                self.name(to, node);
            }
            Some(Effect::Renamed { from, to }) => {
                let node = self.find(from);
                self.name(to, node);
                self.name(from, None);
            }
            Some(Effect::Removed { path }) => self.name(path, None),
        }
    }

    fn by_inode(&mut self, inode: u64) -> Option<&mut Thing> {
        self.by_inode.get(&inode).map(|node| &mut self.things[*node])
    }

    fn find(&self, path: &Path) -> Option<Node> {
        path.iter().try_fold(ROOT, |node, part| match &self.things[node] {
            Thing::Folder { names, .. } => names.get(part).copied(),
            Thing::File { .. } => None,
        })
    }

    fn name(&mut self, path: &Path, to: Option<Node>) {
        let folder =
            self.find(path.parent().unwrap()).unwrap_or_else(|| panic!("{} is unknown", path.display()));
        let Thing::Folder { names, durable, waiting } = &mut self.things[folder] else {
            panic!("{} is no folder's", path.display())
        };
        let name = path.file_name().unwrap().to_owned();
        set(names, &name, to);
        waiting.push(Change { name, to });
        if waiting.len() > WAITING {
            let Change { name, to } = waiting.remove(0);
            set(durable, &name, to);
        }
    }

    /// Every change of a name that is not durable, by folder.
    fn waiting(&self) -> Vec<(Node, &Change)> {
        let folders = self.things.iter().enumerate();
        let waiting = folders.filter_map(|(node, thing)| match thing {
            Thing::Folder { waiting, .. } => Some(waiting.iter().map(move |change| (node, change))),
            Thing::File { .. } => None,
        });
        waiting.flatten().collect()
    }

    /// What may become of it if the power goes now: the extremes, each change alone, all but each, and a few by chance.
    pub(crate) fn fates(&self, seed: u64) -> Vec<Fate> {
        let waiting = self.waiting();
        let named = |index: usize| {
            let (_, Change { name, to }) = waiting[index];
            format!("{}{}", if to.is_some() { "+" } else { "-" }, name.to_string_lossy())
        };
        let count = waiting.len();
        let mut fates = vec![
            Fate { name: "nothing unsynced".into(), happened: vec![false; count], bytes: Bytes::Durable },
            Fate { name: "all names, bytes lost".into(), happened: vec![true; count], bytes: Bytes::Durable },
            Fate { name: "all names, bytes zero".into(), happened: vec![true; count], bytes: Bytes::Zeroes },
            Fate { name: "all names, bytes half".into(), happened: vec![true; count], bytes: Bytes::Half },
            Fate { name: "everything".into(), happened: vec![true; count], bytes: Bytes::Written },
        ];
        for index in 0..count {
            let (mut alone, mut missing) = (vec![false; count], vec![true; count]);
            (alone[index], missing[index]) = (true, false);
            fates.push(Fate { name: format!("only {}", named(index)), happened: alone, bytes: Bytes::Half });
            fates.push(Fate {
                name: format!("all but {}", named(index)),
                happened: missing,
                bytes: Bytes::Durable,
            });
        }
        let mut chance = StdRng::seed_from_u64(seed);
        for number in 0..3 {
            let happened = (0..count).map(|_| chance.random()).collect();
            fates.push(Fate { name: format!("chance {seed}.{number}"), happened, bytes: Bytes::Zeroes });
        }
        // Of those that leave the same, one is enough.
        let mut seen = BTreeSet::new();
        fates.retain(|fate| seen.insert(self.signature(fate)));
        fates
    }

    /// The names in each folder, as this fate leaves them.
    fn left(&self, fate: &Fate) -> HashMap<Node, Names> {
        let mut left = HashMap::new();
        for (node, thing) in self.things.iter().enumerate() {
            if let Thing::Folder { durable, .. } = thing {
                left.insert(node, durable.clone());
            }
        }
        for ((node, change), happened) in self.waiting().into_iter().zip(&fate.happened) {
            if *happened && let Some(names) = left.get_mut(&node) {
                set(names, &change.name, change.to);
            }
        }
        left
    }

    fn bytes(&self, node: Node, fate: &Fate) -> Vec<u8> {
        let Thing::File { bytes, durable, dirty, .. } = &self.things[node] else { return Vec::new() };
        match fate.bytes {
            _ if !dirty => bytes.to_vec(),
            Bytes::Written => bytes.to_vec(),
            Bytes::Durable => durable.to_vec(),
            Bytes::Half => bytes[..bytes.len() / 2].to_vec(),
            Bytes::Zeroes => vec![0; bytes.len()],
        }
    }

    fn signature(&self, fate: &Fate) -> u64 {
        let left = self.left(fate);
        let mut hasher = DefaultHasher::new();
        let mut folders = vec![ROOT];
        while let Some(folder) = folders.pop() {
            for (name, node) in &left[&folder] {
                (name, node).hash(&mut hasher);
                match &self.things[*node] {
                    Thing::Folder { .. } => folders.push(*node),
                    Thing::File { dirty, .. } => dirty.then_some(fate.bytes).hash(&mut hasher),
                }
            }
            u64::MAX.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Makes what is left, in an empty folder.
    pub(crate) fn make(&self, fate: &Fate, root: &Path) {
        let left = self.left(fate);
        let mut made: HashMap<Node, std::path::PathBuf> = HashMap::new();
        let mut folders = vec![(ROOT, root.to_owned())];
        while let Some((folder, path)) = folders.pop() {
            for (name, node) in &left[&folder] {
                assert!(!name.as_bytes().contains(&b'/'));
                let path = path.join(name);
                match &self.things[*node] {
                    Thing::Folder { .. } => {
                        fs::create_dir(&path).unwrap();
                        folders.push((*node, path));
                    }
                    Thing::File { modified, .. } => {
                        if let Some(first) = made.get(node) {
                            fs::hard_link(first, &path).unwrap();
                            continue;
                        }
                        fs::write(&path, self.bytes(*node, fate)).unwrap();
                        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
                        file.set_modified(*modified).unwrap();
                        made.insert(*node, path);
                    }
                }
            }
        }
    }
}

fn set(names: &mut Names, name: &OsString, to: Option<Node>) {
    match to {
        Some(node) => names.insert(name.clone(), node),
        None => names.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn call(effect: Effect) -> Call {
        Call { site: String::new(), looks: false, effect: Some(effect), time: SystemTime::UNIX_EPOCH }
    }

    /// What may be left of a file of the name `a`: its bytes, or none.
    fn left(effects: &[Effect]) -> BTreeSet<Option<Vec<u8>>> {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(folder.path());
        let root = fs::metadata(folder.path()).unwrap().ino();
        for effect in effects {
            let effect = match effect {
                Effect::Synced { inode: 0 } => Effect::Synced { inode: root },
                other => other.clone(),
            };
            disk.apply(&call(effect));
        }
        let fates = disk.fates(1);
        let made = fates.iter().map(|fate| {
            let folder = tempfile::tempdir().unwrap();
            disk.make(fate, folder.path());
            fs::read(folder.path().join("a")).ok()
        });
        made.collect()
    }

    #[test]
    fn what_was_not_synced_may_be_lost_in_every_way() {
        let [a, stage] = ["a", "s"].map(PathBuf::from);
        // Far from the numbers of real ones.
        let inode = u64::MAX - 1;
        let made = Effect::Made { path: stage.clone(), inode, folder: false };
        let wrote = Effect::Wrote { inode, offset: 0, bytes: b"abcd".to_vec() };
        let synced = Effect::Synced { inode };
        let renamed = Effect::Renamed { from: stage, to: a };
        let folder = Effect::Synced { inode: 0 };
        let (none, whole) = (None, Some(b"abcd".to_vec()));
        let (empty, half, zero) = (Some(Vec::new()), Some(b"ab".to_vec()), Some(vec![0; 4]));

        let right = [made.clone(), wrote.clone(), synced.clone(), renamed.clone(), folder.clone()];
        assert_eq!(left(&right), BTreeSet::from([whole.clone()]));
        let no_folder = [made.clone(), wrote.clone(), synced, renamed.clone()];
        assert_eq!(left(&no_folder), BTreeSet::from([none, whole.clone()]));
        let no_file = [made.clone(), wrote.clone(), renamed.clone(), folder.clone()];
        let lost = BTreeSet::from([empty, half, zero, whole]);
        assert_eq!(left(&no_file), lost);
        let failed = [made, wrote, Effect::Unsynced { inode }, Effect::Synced { inode }, renamed, folder];
        assert_eq!(left(&failed), lost);
    }
}
