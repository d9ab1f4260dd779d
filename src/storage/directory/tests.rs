//! What the directory promises, on a real file system.

use std::{
    collections::HashSet,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use object_store::{GetRange, ObjectStoreExt};
use tempfile::TempDir;

use super::*;
use crate::{
    releases::{id::ReleaseId, name::Repository},
    storage::{Engine, Storage, blocks::BLOCK_BYTES, repos::Key},
};

/// A file of several blocks is read in several pieces.
const BLOCK: u64 = BLOCK_BYTES as u64;

fn open() -> (TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(folder.path()).unwrap();
    (folder, directory)
}

fn at(name: &str) -> Path {
    Path::parse(name).unwrap()
}

async fn put(directory: &Directory, name: &str, bytes: &'static [u8], mode: PutMode) -> Result<String> {
    Ok(directory.put_opts(&at(name), bytes.into(), mode.into()).await?.e_tag.unwrap())
}

/// Takes what is from `offset` on out of the page cache; elsewhere than on Linux it stays.
fn forget(file: &File, offset: u64) {
    #[cfg(target_os = "linux")]
    rustix::fs::fadvise(file, offset, None, rustix::fs::Advice::DontNeed).unwrap();
    #[cfg(not(target_os = "linux"))]
    let _ = (file, offset);
}

async fn etag(directory: &Directory, name: &str) -> String {
    directory.head(&at(name)).await.unwrap().e_tag.unwrap()
}

async fn read(directory: &Directory, name: &str) -> Bytes {
    directory.get(&at(name)).await.unwrap().bytes().await.unwrap()
}

fn update(etag: &str) -> PutMode {
    PutMode::Update(object_store::UpdateVersion { e_tag: Some(etag.to_owned()), version: None })
}

fn staged(directory: &Directory) -> usize {
    fs::read_dir(&directory.0.stage).unwrap().count()
}

/// Lets the kernel's clock for files, which may tick every 10 ms, go on.
fn tick() {
    thread::sleep(Duration::from_millis(12));
}

#[tokio::test]
async fn whatever_touches_a_file_changes_its_etag() {
    let (folder, directory) = open();
    let file = folder.path().join("a.bin");
    let acknowledged = put(&directory, "a.bin", b"one", PutMode::Create).await.unwrap();
    assert_eq!(etag(&directory, "a.bin").await, acknowledged, "acknowledged is what lies there");

    let saved = folder.path().join("repos");
    let copy = |from: &FilePath, to: &FilePath| {
        assert!(Command::new("cp").arg("-p").args([from, to]).status().unwrap().success());
    };
    copy(&file, &saved);
    let changes: [(&str, &dyn Fn()); 6] = [
        ("written in place", &|| {
            OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"two", 0).unwrap();
        }),
        ("restored with `cp -p`, in place", &|| copy(&saved, &file)),
        ("given another time", &|| {
            let file = OpenOptions::new().write(true).open(&file).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }),
        ("given other rights", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap()),
        ("given another name as well", &|| fs::hard_link(&file, folder.path().join("b.bin")).unwrap()),
        ("replaced by a copy of the same bytes and time", &|| {
            fs::remove_file(&file).unwrap();
            copy(&saved, &file);
        }),
    ];
    let mut seen = HashSet::from([acknowledged]);
    for (what, change) in changes {
        tick();
        change();
        assert!(seen.insert(etag(&directory, "a.bin").await), "{what}: the ETag is an old one");
    }
    tick();
    let before = etag(&directory, "a.bin").await;
    read(&directory, "a.bin").await;
    assert_eq!(etag(&directory, "a.bin").await, before, "reading changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 16)]
async fn what_is_published_in_one_tick_of_the_kernel_has_times_of_its_own() {
    let (folder, directory) = open();
    let mut times = HashSet::new();
    for round in 0..4 {
        let names: Vec<_> = (0..16).map(|number| format!("{round}-{number}")).collect();
        let puts = names.iter().map(|name| put(&directory, name, b"same", PutMode::Create));
        futures_util::future::try_join_all(puts).await.unwrap();
        for name in names {
            let metadata = fs::metadata(folder.path().join(&name)).unwrap();
            assert!(times.insert(metadata.modified().unwrap()), "{name}: two have one modification time");
        }
    }
}

#[test]
fn exactly_one_of_many_threads_creates() {
    let (folder, directory) = open();
    let other = Directory::open(folder.path()).unwrap();
    for round in 0..10 {
        let target = folder.path().join(format!("{round}.bin"));
        let barrier = std::sync::Barrier::new(16);
        let created: Vec<u8> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16_u8)
                .map(|number| {
                    let directory = if number % 2 == 0 { &directory } else { &other };
                    let (target, barrier) = (&target, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let payload = vec![number; 100].into();
                        directory.0.put(target, &payload, &PutMode::Create).map(|_| number)
                    })
                })
                .collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results
                .filter_map(|result| match result {
                    Ok(number) => Some(number),
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
                        None
                    }
                })
                .collect()
        });
        let [winner] = created[..] else { panic!("{created:?} have all created it") };
        assert_eq!(fs::read(&target).unwrap(), [winner; 100]);
    }
    assert_eq!(staged(&directory), 0);
}

#[tokio::test]
async fn an_update_replaces_only_what_was_expected() {
    let (_folder, directory) = open();
    let missing = put(&directory, "a", b"x", update("\"none\"")).await;
    assert!(matches!(missing, Err(Error::Precondition { .. })), "{missing:?}");

    let first = put(&directory, "a", b"one", PutMode::Create).await.unwrap();
    let second = put(&directory, "a", b"two", update(&first)).await.unwrap();
    let late = put(&directory, "a", b"late", update(&first)).await;
    assert!(matches!(late, Err(Error::Precondition { .. })), "{late:?}");
    assert_eq!(read(&directory, "a").await, "two");
    put(&directory, "a", b"three", update(&second)).await.unwrap();
    assert_eq!(read(&directory, "a").await, "three");
    assert_eq!(staged(&directory), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_updates_none_is_lost() {
    let (folder, directory) = open();
    let other = Directory::open(folder.path()).unwrap();
    directory.put(&at("count"), "0".into()).await.unwrap();
    let counters = [&directory, &other, &directory, &other].map(|directory| {
        let directory = directory.clone();
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let found = directory.get(&at("count")).await.unwrap();
                let etag = found.meta.e_tag.clone().unwrap();
                let count: u32 = std::str::from_utf8(&found.bytes().await.unwrap()).unwrap().parse().unwrap();
                let next = (count + 1).to_string().into();
                match directory.put_opts(&at("count"), next, update(&etag).into()).await {
                    Ok(_) => done += 1,
                    Err(Error::Precondition { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    futures_util::future::try_join_all(counters).await.unwrap();
    assert_eq!(read(&directory, "count").await, "40");
}

#[tokio::test]
async fn a_removal_spares_what_has_changed() {
    let (folder, directory) = open();
    let first = put(&directory, "a", b"one", PutMode::Create).await.unwrap();
    let second = put(&directory, "a", b"one", PutMode::Overwrite).await.unwrap();
    assert_ne!(first, second);
    assert!(!directory.remove_if(&at("a"), &first).await.unwrap());
    assert_eq!(read(&directory, "a").await, "one");
    assert!(directory.remove_if(&at("a"), &second).await.unwrap());
    let again = directory.remove_if(&at("a"), &second).await;
    assert!(matches!(again, Err(Error::NotFound { .. })), "{again:?}");
    let gone = directory.delete(&at("a")).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");

    // A folder and a link are no objects, whatever ETag is named.
    fs::create_dir(folder.path().join("folder")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
    for name in ["folder", "link"] {
        let refused = directory.remove_if(&at(name), &second).await;
        assert!(matches!(refused, Err(Error::NotFound { .. })), "{refused:?}");
    }
}

/// Else who compares could judge one version and hit the next.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_replaces_or_removes_waits_for_the_lock_of_another_process() {
    let (folder, directory) = open();
    let other = Directory::open(folder.path()).unwrap();
    for name in ["removed", "overwritten", "updated"] {
        let etag = put(&directory, name, b"one", PutMode::Create).await.unwrap();
        let directory = directory.clone();
        let held = other.0.lock().unwrap();
        let working = tokio::spawn(async move {
            match name {
                "removed" => drop(directory.remove_if(&at(name), &etag).await.unwrap()),
                "overwritten" => drop(put(&directory, name, b"two", PutMode::Overwrite).await.unwrap()),
                _ => drop(put(&directory, name, b"two", update(&etag)).await.unwrap()),
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(fs::read(folder.path().join(name)).unwrap_or_default(), b"one", "{name}");
        drop(held);
        working.await.unwrap();
        assert_ne!(fs::read(folder.path().join(name)).unwrap_or_default(), b"one", "{name}");
    }
}

#[tokio::test]
async fn empty_folders_go_and_are_not_taken_for_durable_when_somebody_makes_them_again() {
    let (folder, directory) = open();
    let storage = Storage::new(Arc::new(directory.clone()), Engine::Directory(directory.clone()), 0);
    let repository = Repository::parse("acme/app").unwrap();
    let keys = ["a", "b"].map(|name| Key::bytes(&repository, ReleaseId::new(Utc::now(), 1), "token", name));
    for key in &keys {
        put(&directory, key.as_str(), b"one", PutMode::Create).await.unwrap();
    }
    let made = folder.path().join(keys[0].as_str()).parent().unwrap().to_owned();
    assert!(directory.0.anchored.get(&made).is_some());
    storage.erase(&keys[0]).await.unwrap();
    assert!(made.exists(), "it is in use");
    storage.erase(&keys[1]).await.unwrap();
    assert!(!folder.path().join("repos/acme").exists() && folder.path().join("repos").exists());
    assert!(directory.0.anchored.get(&made).is_none());
}

#[test]
fn a_folder_that_is_removed_all_the_time_keeps_no_file_out() {
    let (_folder, directory) = open();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    thread::scope(|scope| {
        for number in 0..4 {
            let (runtime, directory) = (&runtime, &directory);
            scope.spawn(move || {
                for round in 0..250 {
                    let name = format!("repos/acme/app/files/1/{number}/{round}");
                    runtime.block_on(async {
                        put(directory, &name, b"one", PutMode::Create).await.unwrap();
                        directory.delete(&at(&name)).await.unwrap();
                        directory.prune(&at(&name), &at("repos")).await;
                    });
                }
            });
        }
    });
}

#[tokio::test]
async fn a_starting_process_clears_only_what_nobody_holds() {
    let (folder, directory) = open();
    fs::write(directory.0.stage.join("left-by-a-crash"), "x").unwrap();
    let mut upload = directory.put_multipart(&at("a")).await.unwrap();
    upload.put_part("some".into()).await.unwrap();

    let other = Directory::open(folder.path()).unwrap();
    assert_eq!(staged(&other), 1);
    upload.put_part(" bytes".into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_eq!(read(&other, "a").await, "some bytes");
    assert_eq!(staged(&other), 0);

    let mut aborted = directory.put_multipart(&at("b")).await.unwrap();
    aborted.put_part("some".into()).await.unwrap();
    aborted.abort().await.unwrap();
    let mut dropped = directory.put_multipart(&at("b")).await.unwrap();
    dropped.put_part("some".into()).await.unwrap();
    drop(dropped);
    while staged(&directory) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(directory.head(&at("b")).await, Err(Error::NotFound { .. })));
}

#[test]
fn clearing_takes_no_file_from_an_upload_that_is_just_beginning() {
    let (folder, directory) = open();
    let other = Directory::open(folder.path()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clearing = || {
            while !done.load(Ordering::Relaxed) {
                other.0.clear_stage();
            }
        };
        scope.spawn(clearing);
        scope.spawn(clearing);
        let lost = (0..3000).find(|_| {
            let stage = Stage::create(&directory.0.stage).unwrap();
            thread::sleep(Duration::from_micros(100));
            !stage.path.exists()
        });
        done.store(true, Ordering::Relaxed);
        assert_eq!(lost, None, "a staged file was taken from its upload");
    });
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_large_upload_is_whole_whichever_way_its_parts_went() {
    let (folder, directory) = open();
    let part = 1024 * 1024;
    let length = usize::try_from(DIRECT_FROM).unwrap() + 3 * part + 4097;
    let bytes = Bytes::from(
        (0..=250).cycle().step_by(4093).flat_map(|byte| [byte; 4093]).take(length).collect::<Vec<u8>>(),
    );
    let mut upload = directory.put_multipart(&at("a")).await.unwrap();
    let mut rest = bytes.clone();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let next = rest.split_to(rest.len().min(part));
        parts.push(upload.put_part(next.into()));
    }
    futures_util::future::try_join_all(parts).await.unwrap();
    let stage = fs::read_dir(&directory.0.stage).unwrap().next().unwrap().unwrap().path();
    // Once for the first bytes and the last, once past the page cache.
    let ways = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let ways = ways.filter(|target| *target == stage).count();
    upload.complete().await.unwrap();
    assert_eq!(read(&directory, "a").await, bytes);
    let knows_direct = Direct::open(&folder.path().join("a"), &directory.0.aligned).is_some();
    assert_eq!(ways, if knows_direct { 2 } else { 1 });
}

#[tokio::test]
async fn odd_entries_are_left_out_of_a_listing() {
    let (folder, directory) = open();
    put(&directory, "fine.zip", b"x", PutMode::Create).await.unwrap();
    put(&directory, "größe 1.zip", b"x", PutMode::Create).await.unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("lost+found")).unwrap();
    fs::set_permissions(path("lost+found"), fs::Permissions::from_mode(0o000)).unwrap();
    std::os::unix::fs::symlink("loop", path("loop")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    fs::write(path("line\nbreak"), "x").unwrap();
    fs::write(folder.path().join(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"latin-\xe9")), "x")
        .unwrap();

    let listing = directory.list_with_delimiter(None).await.unwrap();
    let mut names: Vec<_> = listing.objects.iter().map(|object| object.location.as_ref()).collect();
    names.sort_unstable();
    // A line break can be a key; it is no package, which is for others to say.
    names.retain(|name| *name != "line\nbreak");
    assert_eq!(names, ["fine.zip", "größe 1.zip"]);
    let root = directory.survey(&at(".release-server/packages")).await.unwrap().root;
    assert!(root.skipped + root.unreadable >= 6, "{} and {}", root.skipped, root.unreadable);

    for name in ["loop", "link", "dangling", "socket", "pipe", "lost+found", "fine.zip/below"] {
        let found = directory.get(&at(name)).await;
        assert!(matches!(found, Err(Error::NotFound { .. })), "{name}: {found:?}");
    }
    let long = directory.get(&at(&"n".repeat(300))).await;
    assert!(matches!(long, Err(Error::NotFound { .. })), "{long:?}");
}

#[tokio::test]
async fn a_folder_of_many_is_looked_at_by_several_threads_and_nothing_is_left_out_or_twice() {
    let (folder, directory) = open();
    let count = 3 * super::A_SHARE + 7;
    for index in 0..count {
        fs::write(folder.path().join(format!("{index:05}.zip")), "x").unwrap();
        if index.is_multiple_of(100) {
            std::os::unix::fs::symlink("nowhere", folder.path().join(format!("{index:05}.link"))).unwrap();
            fs::create_dir(folder.path().join(format!("{index:05}"))).unwrap();
        }
    }
    let root = directory.survey(&at(".release-server/packages")).await.unwrap().root;
    let mut names: Vec<_> = root.found.objects.iter().map(|object| object.location.to_string()).collect();
    names.sort_unstable();
    assert_eq!(names, (0..count).map(|index| format!("{index:05}.zip")).collect::<Vec<_>>());
    let odd = count.div_ceil(100);
    // `.release-server` is a folder too.
    assert_eq!((root.found.common_prefixes.len(), root.skipped, root.unreadable), (odd + 1, odd as u64, 0));
}

#[tokio::test]
async fn a_file_cut_short_under_a_reader_is_an_error() {
    let (folder, directory) = open();
    let size = 3 * usize::try_from(BLOCK).unwrap();
    directory.put(&at("a"), vec![7; size].into()).await.unwrap();
    let mut blocks = directory.get(&at("a")).await.unwrap().into_stream();
    assert_eq!(blocks.try_next().await.unwrap().unwrap().len() as u64, BLOCK);
    OpenOptions::new().write(true).open(folder.path().join("a")).unwrap().set_len(BLOCK + 10).unwrap();
    let rest = tokio::time::timeout(Duration::from_secs(10), blocks.try_collect::<Vec<_>>()).await;
    let error = rest.expect("it does not hang").unwrap_err();
    assert!(error.to_string().contains("became shorter"), "{error}");
}

#[tokio::test]
async fn a_reader_keeps_the_version_it_has_opened() {
    let (_folder, directory) = open();
    put(&directory, "a", b"one", PutMode::Create).await.unwrap();
    let opened = directory.get(&at("a")).await.unwrap();
    put(&directory, "a", b"other", PutMode::Overwrite).await.unwrap();
    assert_eq!(opened.bytes().await.unwrap(), "one");
    directory.delete(&at("a")).await.unwrap();
    assert!(matches!(directory.get(&at("a")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn ranges_are_read_across_blocks_from_memory_and_from_the_disk() {
    let (folder, directory) = open();
    let size = 2 * BLOCK + 100;
    let bytes: Vec<u8> = (0..size).map(|position| (position % 251) as u8).collect();
    directory.put(&at("a"), bytes.clone().into()).await.unwrap();
    let part = |range: Range<u64>| {
        &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    };
    let file = File::open(folder.path().join("a")).unwrap();
    // From here on nothing is in memory: nowhere, everywhere, in the middle of the second block.
    for forgotten in [size, 0, BLOCK + BLOCK / 2] {
        for (range, expected) in [
            (GetRange::Bounded(0..1), 0..1),
            (GetRange::Bounded(BLOCK - 1..BLOCK + 1), BLOCK - 1..BLOCK + 1),
            (GetRange::Bounded(10..size + 10), 10..size),
            (GetRange::Offset(size - 3), size - 3..size),
            (GetRange::Suffix(BLOCK + 1), size - BLOCK - 1..size),
            (GetRange::Suffix(size + 1), 0..size),
        ] {
            forget(&file, forgotten);
            let options = GetOptions::new().with_range(Some(range.clone()));
            let found = directory.get_opts(&at("a"), options).await.unwrap();
            assert_eq!(found.range, expected, "{range}");
            assert!(found.bytes().await.unwrap() == part(expected), "{range}, {forgotten}");
        }
    }
    let beyond = GetOptions::new().with_range(Some(GetRange::Offset(size)));
    directory.get_opts(&at("a"), beyond).await.unwrap_err();
}

#[test]
#[cfg(target_os = "linux")]
fn a_place_where_no_folder_can_be_made_is_an_error_at_once() {
    let error = Directory::open(FilePath::new("/proc/release-server/store")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}
