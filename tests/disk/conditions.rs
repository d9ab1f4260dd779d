//! A disk that is full, or read-only, a process that may open few files or write no large ones, and a clock that jumps:
//! the server stays up, says why, loses nothing, and goes on when it is over.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::net::TcpStream;

use super::{
    evidence::Evidence,
    kill::{QUIET, folder, set},
    local::Local,
    process::{KIB, MIB, Server, command, eventually},
    world::{Asker, Outcome, Step, World, client},
};

const SCENE: &[Step] = &[
    Step::Put { name: "a.bin", seed: 1, size: 5 * KIB, overwrite: false },
    Step::Release("v1"),
    Step::Attach { tag: "v1", name: "app.zip", seed: 2, size: 4 * KIB, replace: false },
    Step::Draft("v2"),
];

/// Changes that need room, and one that does not.
const CHANGES: &[Step] = &[
    Step::Put { name: "b.bin", seed: 3, size: 90 * KIB, overwrite: false },
    Step::Put { name: "large.bin", seed: 4, size: 3 * MIB, overwrite: false },
    Step::Put { name: "a.bin", seed: 5, size: 80 * KIB, overwrite: true },
    Step::Attach { tag: "v2", name: "large.zip", seed: 6, size: 3 * MIB, replace: false },
    Step::Publish("v2"),
    Step::Notes { tag: "v1", text: "new" },
    Step::Delete("a.bin"),
];

/// The command in namespaces of its own, with a small disk at `root` that nobody else sees; needs no privilege.
fn on_small_disk(command: &Command, root: &Path, size: usize) -> Command {
    let mut inside = Command::new("unshare");
    let mount = format!("mount -t tmpfs -o size={size} none \"$0\" && exec \"$@\"");
    inside.args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount]).arg(root);
    inside.arg(command.get_program()).args(command.get_args());
    inside.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    inside.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    inside
}

/// Whether a test may mount a disk of its own; it has said so if not.
fn can_mount(test: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let tried = on_small_disk(&Command::new("true"), folder.path(), MIB).output();
    let works = tried.as_ref().is_ok_and(|output| output.status.success());
    if !works {
        let _ = writeln!(io::stderr(), "SKIPPED: {test}: no disk can be mounted here: {tried:?}");
    }
    works
}

/// The directory as the server sees it.
fn seen_by(server: &Server, root: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", server.id())).join(root.strip_prefix("/").unwrap())
}

/// Tries every change; each is done, or refused calmly and not at all.
async fn try_all(asker: &Asker, world: &mut World, refused: &mut usize) -> Result<(), String> {
    for step in CHANGES {
        let Some(request) = asker.prepare(step).await else { continue };
        let outcome = asker.send(request).await;
        match &outcome {
            Outcome::Said(200..=299, _) => *world = world.after(step),
            Outcome::Said(500 | 503 | 507, said) if said["message"].is_string() => *refused += 1,
            // A replacement of a name that was not to be stored.
            Outcome::Said(409, _) if matches!(step, Step::Put { overwrite: false, .. }) => {}
            outcome => return Err(format!("{step:?}: {outcome:?}")),
        }
        let (found, _) = asker.look().await?;
        if !found.looks_like(world) {
            return Err(format!("after {step:?}, {outcome:?}: there is {found:#?}\ninstead of {world:#?}"));
        }
    }
    Ok(())
}

fn says(server: &Server, what: &str) -> bool {
    let says = |line: &Value| line["error"].as_str().is_some_and(|error| error.contains(what));
    server.logged("error").iter().any(says)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_changes_and_goes_on_when_there_is_room() {
    if !can_mount("a full disk") {
        return;
    }
    let (mut faults, mut refused) = (Vec::new(), 0);
    // So much is free: nothing, less than a page more than it takes to make a file, and some.
    for free in [0, 4 * KIB, 16 * KIB, 64 * KIB, 2 * MIB] {
        let folder = folder();
        let root = folder.path();
        let server = Server::spawn(on_small_disk(&command(root, &QUIET, &["serve"]), root, 12 * MIB));
        let asker = Asker::new(&client(), server.address);
        let mut world = set(SCENE, &asker).await;
        let ballast = seen_by(&server, root).join(".ballast");
        let mut file = fs::File::create(&ballast).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full - free as u64).unwrap();
        drop(file);

        let before = refused;
        let tried = try_all(&asker, &mut world, &mut refused).await;
        let mut check = async || -> Result<(), String> {
            tried.clone()?;
            if refused > before && !says(&server, "os error 28") {
                return Err(format!("the log does not say why: {:?}", server.logged("error")));
            }
            let staged = fs::read_dir(seen_by(&server, root).join(".release-server/stage")).unwrap().count();
            if staged > 0 {
                return Err(format!("{staged} unfinished uploads are left"));
            }
            fs::remove_file(&ballast).unwrap();
            for step in CHANGES {
                if let Some(request) = asker.prepare(step).await {
                    asker.repeat(request, step, &world).await?;
                    world = world.after(step);
                }
            }
            Ok(())
        };
        if let Err(fault) = check().await {
            faults.push(format!("{free} bytes free: {fault}"));
        }
    }
    Evidence {
        attack: "the disk is full",
        on: "directory",
        cases: refused,
        of: "changes refused",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .record();
    assert!(faults.is_empty() && refused > 10, "{refused} refused, {}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_is_read_and_written_again_later() {
    if !can_mount("a read-only disk") {
        return;
    }
    let folder = folder();
    let root = folder.path();
    let server = Server::spawn(on_small_disk(&command(root, &QUIET, &["serve"]), root, 32 * MIB));
    let asker = Asker::new(&client(), server.address);
    let mut world = set(SCENE, &asker).await;
    let remount = |how: &str| {
        let pid = server.id().to_string();
        let mut mount = Command::new("nsenter");
        mount.args(["--target", &pid, "--user", "--mount", "--preserve-credentials", "mount", "-o"]);
        assert!(mount.arg(format!("remount,{how}")).arg(root).status().unwrap().success());
    };
    let mut refused = 0;
    remount("ro");
    let tried = try_all(&asker, &mut world, &mut refused).await;
    let says_why = says(&server, "os error 30");
    // A second server on it is refused, and told why.
    let pid = server.id().to_string();
    let started = Command::new("nsenter")
        .args(["--target", &pid, "--user", "--mount", "--preserve-credentials"])
        .arg(env!("CARGO_BIN_EXE_release-server"))
        .env_clear()
        .env("CONFIG_PATH", "/dev/null")
        .env("STORAGE_PATH", root)
        .env("PORT", "0")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&started.stderr).into_owned();
    remount("rw");
    let mut after = world.clone();
    let mut again = Ok(());
    for step in CHANGES {
        if let Some(request) = asker.prepare(step).await {
            again = again.and(asker.repeat(request, step, &after).await);
            after = after.after(step);
        }
    }
    let faults: Vec<String> = [tried, again].into_iter().filter_map(Result::err).collect();
    Evidence {
        attack: "the disk turns read-only under a running server",
        on: "directory",
        cases: refused,
        of: "changes refused",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .record();
    assert_eq!(faults, [""; 0]);
    assert_eq!(refused, CHANGES.len(), "every change");
    assert!(says_why, "{:?}", server.logged("error"));
    assert!(
        !started.status.success() && told.contains("Read-only file system") && told.contains("READ_ONLY"),
        "{told}"
    );
}

/// The command with a limit of its process.
fn limited(command: &Command, limit: &str) -> Command {
    let mut limited = Command::new("prlimit");
    limited.arg(limit).arg("--core=0").arg(command.get_program()).args(command.get_args());
    limited.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    limited
}

#[tokio::test(flavor = "multi_thread")]
async fn without_file_descriptors_nothing_is_lost_and_it_goes_on_when_some_are_free() {
    const LIMIT: usize = 64;
    let folder = folder();
    let root = folder.path();
    let server = Server::spawn(limited(&command(root, &QUIET, &["serve"]), &format!("--nofile={LIMIT}")));
    let asker = Asker::new(&client(), server.address);
    let mut world = set(SCENE, &asker).await;
    let (mut faults, mut refused, mut unheard) = (Vec::new(), 0, 0);
    for idle in [LIMIT - 30, LIMIT - 16, LIMIT - 12, LIMIT - 10, LIMIT, 2 * LIMIT] {
        let connect = async || {
            let mut held = Vec::new();
            for _ in 0..idle {
                held.push(TcpStream::connect(server.address).await.unwrap());
            }
            held
        };
        let (mut held, mut gave_up) = (connect().await, false);
        // One that is connected may ask for what needs files; one that is not waits for a place.
        for step in CHANGES {
            let asked = tokio::time::timeout(Duration::from_millis(700), async {
                let request = asker.prepare(step).await?;
                Some(asker.send(request).await)
            });
            let doubtful = match asked.await {
                Ok(Some(Outcome::Said(200..=299, _))) => {
                    world = world.after(step);
                    false
                }
                Ok(Some(Outcome::Said(409, _)) | None) => false,
                // What was removed, and could not be made durable, is not acknowledged, and gone.
                Ok(Some(Outcome::Said(500 | 503 | 507, _))) => {
                    refused += 1;
                    true
                }
                // It may come to it as soon as there is a place.
                Err(_) | Ok(Some(Outcome::Hung | Outcome::Broken(_))) => {
                    unheard += 1;
                    gave_up = true;
                    true
                }
                Ok(Some(outcome)) => {
                    faults.push(format!("{idle} idle, {step:?}: {outcome:?}"));
                    false
                }
            };
            if doubtful {
                held.clear();
                tokio::time::sleep(Duration::from_millis(300)).await;
                match asker.look().await {
                    Ok((found, _)) if found.looks_like(&world.after(step)) => world = world.after(step),
                    Ok((found, _)) if found.looks_like(&world) => {}
                    other => faults.push(format!("{idle} idle, {step:?}: {other:?}")),
                }
                if gave_up {
                    break;
                }
                held = connect().await;
            }
        }
        drop(held);
        tokio::time::sleep(Duration::from_millis(300)).await;
        match asker.look().await {
            Ok((found, _)) if found.looks_like(&world) => {}
            other => faults.push(format!("after {idle} idle: {other:?}\ninstead of {world:?}")),
        }
        for step in SCENE {
            if let Some(request) = asker.prepare(step).await
                && !matches!(step, Step::Draft(_))
            {
                faults.extend(asker.repeat(request, step, &world).await.err());
                world = world.after(step);
            }
        }
    }
    println!("{refused} refused, {unheard} not answered in time");
    Evidence {
        attack: "no file descriptors are left",
        on: "directory",
        cases: refused + unheard,
        of: "changes refused or left waiting",
        wrong: faults.len(),
        ..Evidence::default()
    }
    .record();
    assert!(faults.is_empty() && refused + unheard > 0, "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_the_size_of_files_refuses_what_is_larger() {
    let folder = folder();
    let root = folder.path();
    let server = Server::spawn(limited(&command(root, &QUIET, &["serve"]), "--fsize=1000000"));
    let asker = Asker::new(&client(), server.address);
    let mut world = set(SCENE, &asker).await;
    let mut refused = 0;
    try_all(&asker, &mut world, &mut refused).await.unwrap();
    assert_eq!(refused, 2, "both of three megabytes");
    assert!(says(&server, "os error 27"), "{:?}", server.logged("error"));
}

/// As a server left it whose clock was ahead: the next one's has jumped back.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_back_makes_no_earlier_publish_the_latest() {
    let client = client();
    let mut cases = 0;
    for ahead in [Duration::from_mins(1), Duration::from_hours(1), Duration::from_hours(24 * 365)] {
        let folder = folder();
        let root = folder.path();
        let server = Server::start(root, &QUIET);
        let asker = Asker::new(&client, server.address);
        let mut world = set(SCENE, &asker).await;
        drop(server);
        let milliseconds = i64::try_from(ahead.as_millis()).unwrap();
        let markers = root.join(".release-server/packages");
        for marker in fs::read_dir(&markers).unwrap() {
            let name = marker.unwrap().file_name().into_string().unwrap();
            let (stem, time) = name.rsplit_once('-').unwrap();
            let later = time.parse::<i64>().unwrap() + milliseconds;
            fs::rename(markers.join(&name), markers.join(format!("{stem}-{later}"))).unwrap();
        }
        let records = root.join("repos/acme/app/releases");
        for record in fs::read_dir(&records).unwrap() {
            let path = record.unwrap().path();
            let mut record: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            for field in ["published_at", "latest_at", "created_at", "updated_at"] {
                let time =
                    record[field].as_str().map(|time| time.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
                record[field] = time.map_or(Value::Null, |time| (time + ahead).to_rfc3339().into());
            }
            fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
        }
        let server = Server::start(root, &QUIET);
        let asker = Asker::new(&client, server.address);
        for step in [
            Step::Put { name: "b.bin", seed: 7, size: KIB, overwrite: false },
            Step::Publish("v2"),
            Step::Release("v3"),
            Step::Put { name: "a.bin", seed: 8, size: KIB, overwrite: true },
        ] {
            asker.perform(&step).await;
            world = world.after(&step);
            let (found, _) = asker.look().await.unwrap();
            assert!(found.looks_like(&world), "{ahead:?}, {step:?}: {found:#?}\ninstead of {world:#?}");
            cases += 1;
        }
        let local = Local::start(root, &client).await;
        local.swept(root, &world).await.unwrap();
    }
    Evidence {
        attack: "the clock jumps back between two publishes",
        on: "directory",
        cases,
        of: "publishes",
        ..Evidence::default()
    }
    .record();
}

/// Files that other machines have dated.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_past_and_of_the_future_are_packages() {
    let folder = folder();
    let root = folder.path();
    let now = SystemTime::now();
    let hour = Duration::from_hours(1);
    let dates = [
        ("beyond.bin", now + 24 * 365 * 9000 * hour),
        ("far-future.bin", now + 24 * 365 * 200 * hour),
        ("tomorrow.bin", now + 24 * hour),
        ("soon.bin", now + Duration::from_mins(1)),
        ("yesterday.bin", now - 24 * hour),
        // Of the same time, as far as can be told: sorted by name.
        ("before.bin", SystemTime::UNIX_EPOCH - 24 * 365 * 20 * hour),
        ("epoch.bin", SystemTime::UNIX_EPOCH),
    ];
    for (name, date) in dates {
        fs::write(root.join(name), name).unwrap();
        fs::File::options().write(true).open(root.join(name)).unwrap().set_modified(date).unwrap();
    }
    let mut local = Local::start(root, &client()).await;
    let world = local.settled().await.unwrap();
    let names: Vec<_> = world.packages.iter().map(|package| package.0.as_str()).collect();
    assert_eq!(names, dates.map(|date| date.0), "newest first");
    local.asker.perform(&Step::Put { name: "new.bin", seed: 1, size: KIB, overwrite: false }).await;
    let (found, unhashed) = local.asker.look().await.unwrap();
    assert_eq!(
        (found.packages[0].0.as_str(), unhashed),
        ("new.bin", Vec::new()),
        "the latest is the last published"
    );
    let before = found.clone();
    local.swept(root, &before).await.unwrap();
    eventually("all have a marker", || super::process::control(root, "packages").len() == dates.len() + 1);
}
