//! Watches what a process does to one directory, system call by system call, and steps in at one of them.
//!
//! - Calls are numbered in one order over all threads: of those that change something, never two are under way.
//! - At the chosen one the process is killed (`SIGKILL`, before the call), or the call fails with an error.
//! - What it wrote can be kept, so that [`super::tree`] can replay it.
//!
//! With ptrace, so it works on the program as it is, whatever it is linked with; `strace` cannot do it, for it counts each
//! thread's calls apart. Needs Linux on `x86_64` and leave to trace one's own children: [`can_trace`] says so.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::{self, IoSliceMut, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

pub(crate) use nix::errno::Errno;
use nix::{
    libc::{self, c_long},
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        uio::{RemoteIoVec, process_vm_readv},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// What a call did, with paths relative to the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A new file, or folder.
    Made {
        path: PathBuf,
        inode: u64,
        folder: bool,
    },
    Wrote {
        inode: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    Resized {
        inode: u64,
        size: u64,
    },
    Synced {
        inode: u64,
    },
    /// A sync was refused. The kernel says so once (fsync(2)).
    Unsynced {
        inode: u64,
    },
    Linked {
        from: PathBuf,
        to: PathBuf,
    },
    Renamed {
        from: PathBuf,
        to: PathBuf,
    },
    Removed {
        path: PathBuf,
    },
    /// The head of an answer left, with this status.
    Answered(u16),
}

/// A call, in the order in which they were made.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Its name and what it was about, chance names left out: `linkat .release-server/stage/* a.bin`.
    pub(crate) site: String,
    /// Whether it only looked.
    pub(crate) looks: bool,
    /// What it did, if that was kept; `None` if it failed.
    pub(crate) effect: Option<Effect>,
    /// When it began.
    pub(crate) time: SystemTime,
}

/// Where to step in, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Which call, from 1.
    pub(crate) at: usize,
    /// How the site of those begins that count.
    pub(crate) of: &'static str,
    /// Whether those count that only look.
    pub(crate) looks: bool,
    pub(crate) act: Act,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// `SIGKILL`, before the call.
    Kill,
    /// The call is not made, and fails.
    Fail(Errno),
    /// The call is made, and is said to have failed.
    Lie(Errno),
}

/// The command, which does not begin before it is [let go](go): so it can be watched from its first call on.
pub(crate) fn held_back(command: &Command) -> Command {
    let mut held = Command::new("/bin/sh");
    held.args(["-c", "read -r _ && exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    held.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    held.stdin(Stdio::piped());
    held
}

/// Lets a command go that was [held back](held_back).
pub(crate) fn go(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
}

/// Says on the terminal why nothing can be traced here, if so.
pub(crate) fn can_trace(test: &str) -> bool {
    let mut child = Command::new("sleep").arg("10").spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let allowed = ptrace::seize(pid, Options::empty());
    child.kill().unwrap();
    child.wait().unwrap();
    if let Err(error) = allowed {
        // Not captured by the harness, so that it is seen.
        let _ = writeln!(io::stderr(), "SKIPPED: {test}: this process may not trace its children: {error}");
    }
    allowed.is_ok()
}

/// A process being watched, until this is finished or dropped.
pub(crate) struct Tracer {
    pid: Pid,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    stop: AtomicBool,
    ended: AtomicBool,
    /// And how many of the calls that count there were.
    plan: Mutex<Option<(Plan, usize)>>,
    hit: Mutex<Option<String>>,
}

impl Tracer {
    /// Watches what the process does below `root`, from now on. `keep`: the bytes it writes too.
    pub(crate) fn attach(pid: u32, root: &Path, keep: bool, plan: Option<Plan>) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        let shared = Arc::new(Shared { plan: Mutex::new(plan.map(|plan| (plan, 0))), ..Shared::default() });
        let (ready, attached) = mpsc::channel();
        let (root, inner) = (root.to_owned(), Arc::clone(&shared));
        // All requests about a process must come from the thread that traces it.
        let thread = thread::spawn(move || {
            let mut watch = Watch {
                root,
                pid,
                keep,
                shared: inner,
                pending: HashMap::new(),
                busy: None,
                held: VecDeque::new(),
            };
            watch.seize();
            let _ = ready.send(());
            watch.run();
        });
        attached.recv_timeout(Duration::from_secs(10)).expect("the process is traced");
        Self { pid, shared, thread: Some(thread) }
    }

    /// Steps in from now on.
    pub(crate) fn plan(&self, plan: Plan) {
        *self.shared.plan.lock().unwrap() = Some((plan, 0));
    }

    /// How many calls there were.
    pub(crate) fn count(&self) -> usize {
        self.shared.calls.lock().unwrap().len()
    }

    /// Whether such a call was made.
    pub(crate) fn made(&self, such: impl Fn(&Call) -> bool) -> bool {
        self.shared.calls.lock().unwrap().iter().any(such)
    }

    /// Where the plan stepped in, if it has.
    pub(crate) fn hit(&self) -> Option<String> {
        self.shared.hit.lock().unwrap().clone()
    }

    /// Whether the process has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.ended.load(SeqCst)
    }

    /// Lets the process go on by itself, or waits for its end if it was killed; all calls.
    pub(crate) fn finish(mut self) -> Vec<Call> {
        self.stop();
        std::mem::take(&mut *self.shared.calls.lock().unwrap())
    }

    /// Waits until the process has ended, by itself or by the plan; where it was stepped in.
    pub(crate) fn ended(mut self) -> Option<String> {
        self.thread.take().map(JoinHandle::join).unwrap().unwrap();
        self.hit()
    }

    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stop.store(true, SeqCst);
        if !self.shared.ended.load(SeqCst) {
            // Nobody heeds it but the tracer, who waits for anything to happen.
            let _ = kill(self.pid, Signal::SIGWINCH);
        }
        let _ = thread.join();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A call under way.
struct Pending {
    site: String,
    looks: bool,
    /// As far as it is known before the call.
    intent: Option<Intent>,
    number: usize,
    deed: Deed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Honest,
    /// Not made; fails.
    Refused(Errno),
    /// Made; fails.
    Denied(Errno),
}

enum Intent {
    Open {
        path: PathBuf,
        existed: bool,
        truncates: bool,
    },
    Folder(PathBuf),
    /// At the file's own position where there is no offset.
    Write {
        inode: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    Done(Effect),
}

struct Watch {
    root: PathBuf,
    pid: Pid,
    keep: bool,
    shared: Arc<Shared>,
    pending: HashMap<Pid, Pending>,
    /// Whose change is under way.
    busy: Option<Pid>,
    /// Those who wait for it to be over.
    held: VecDeque<Pid>,
}

const OPTIONS: Options = Options::PTRACE_O_TRACESYSGOOD
    .union(Options::PTRACE_O_TRACECLONE)
    .union(Options::PTRACE_O_TRACEFORK)
    .union(Options::PTRACE_O_TRACEVFORK)
    .union(Options::PTRACE_O_TRACEEXEC);

impl Watch {
    fn seize(&self) {
        let mut seized = Vec::new();
        loop {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid)).into_iter().flatten().flatten();
            let tasks = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok().map(Pid::from_raw));
            let fresh: Vec<Pid> = tasks.filter(|task| !seized.contains(task)).collect();
            if fresh.is_empty() {
                return;
            }
            for task in fresh {
                // One that a seized thread has made meanwhile is traced already.
                if ptrace::seize(task, OPTIONS).is_ok() {
                    let _ = ptrace::interrupt(task);
                }
                seized.push(task);
            }
        }
    }

    fn run(&mut self) {
        loop {
            // Of this thread's own tracees alone.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::from_bits_retain(libc::__WNOTHREAD);
            let status = match waitpid(Pid::from_raw(-1), Some(flags)) {
                Err(Errno::EINTR) => continue,
                Err(_) => break,
                Ok(status) => status,
            };
            match status {
                WaitStatus::PtraceSyscall(thread) => self.at_syscall(thread),
                WaitStatus::Stopped(thread, signal) => {
                    if signal == Signal::SIGWINCH && self.shared.stop.load(SeqCst) {
                        // Who traces no longer lets go.
                        return;
                    }
                    let _ = ptrace::syscall(thread, signal);
                }
                WaitStatus::PtraceEvent(thread, ..) => {
                    let _ = ptrace::syscall(thread, None);
                }
                WaitStatus::Exited(thread, _) | WaitStatus::Signaled(thread, ..) => {
                    self.pending.remove(&thread);
                    self.release(thread);
                    if thread == self.pid {
                        break;
                    }
                }
                _ => {}
            }
        }
        self.shared.ended.store(true, SeqCst);
    }

    fn at_syscall(&mut self, thread: Pid) {
        // 1 at entry, 2 at exit (`linux/ptrace.h`).
        match ptrace::syscall_info(thread).map(|info| info.op) {
            Ok(1) => self.entering(thread),
            Ok(2) => self.leaving(thread),
            _ => {
                let _ = ptrace::syscall(thread, None);
            }
        }
    }

    fn entering(&mut self, thread: Pid) {
        let Some(mut pending) =
            ptrace::getregs(thread).ok().and_then(|registers| self.look(thread, &registers))
        else {
            let _ = ptrace::syscall(thread, None);
            return;
        };
        // A lock may be waited for, so it holds up nobody.
        if !pending.looks {
            if self.busy.is_some_and(|busy| busy != thread) {
                self.held.push_back(thread);
                return;
            }
            self.busy = Some(thread);
        }
        // An answer is no call on the disk: the process may be killed at it, but it does not fail.
        let counts = |plan: &Plan| match &pending.intent {
            _ if !pending.site.starts_with(plan.of) => false,
            Some(Intent::Done(Effect::Answered(_))) => plan.act == Act::Kill,
            _ => plan.looks || !pending.looks,
        };
        if let Some((plan, counted)) = self.shared.plan.lock().unwrap().as_mut()
            && counts(plan)
        {
            *counted += 1;
            if *counted == plan.at {
                *self.shared.hit.lock().unwrap() = Some(pending.site.clone());
                match plan.act {
                    Act::Kill => {
                        let _ = kill(self.pid, Signal::SIGKILL);
                        return;
                    }
                    Act::Fail(error) => pending.deed = Deed::Refused(error),
                    Act::Lie(error) => pending.deed = Deed::Denied(error),
                }
            }
        }
        if let Deed::Refused(_) = pending.deed
            && let Ok(mut registers) = ptrace::getregs(thread)
        {
            // No such call: nothing is done.
            registers.orig_rax = u64::MAX;
            let _ = ptrace::setregs(thread, registers);
        }
        {
            let mut calls = self.shared.calls.lock().unwrap();
            pending.number = calls.len();
            calls.push(Call {
                site: pending.site.clone(),
                looks: pending.looks,
                effect: None,
                time: SystemTime::now(),
            });
        }
        self.pending.insert(thread, pending);
        let _ = ptrace::syscall(thread, None);
    }

    fn leaving(&mut self, thread: Pid) {
        if let Some(pending) = self.pending.remove(&thread) {
            let registers = ptrace::getregs(thread);
            if let Ok(mut registers) = registers {
                if let Deed::Refused(error) | Deed::Denied(error) = pending.deed {
                    registers.rax = i64::from(-(error as i32)).cast_unsigned();
                    let _ = ptrace::setregs(thread, registers);
                }
                let result = registers.rax.cast_signed();
                let effect = match pending.intent {
                    Some(Intent::Done(Effect::Synced { inode })) if result < 0 => {
                        Some(Effect::Unsynced { inode })
                    }
                    intent => intent.filter(|_| result >= 0).and_then(|intent| self.effect(intent, result)),
                };
                self.shared.calls.lock().unwrap()[pending.number].effect = effect;
            }
            self.release(thread);
        }
        let _ = ptrace::syscall(thread, None);
    }

    /// The next one may go on.
    fn release(&mut self, thread: Pid) {
        self.held.retain(|held| *held != thread);
        if self.busy != Some(thread) {
            return;
        }
        self.busy = None;
        while let Some(next) = self.held.pop_front() {
            self.entering(next);
            if self.busy.is_some() {
                break;
            }
        }
    }

    fn effect(&self, intent: Intent, result: i64) -> Option<Effect> {
        let inode =
            |path: &Path| fs::symlink_metadata(self.root.join(path)).ok().map(|metadata| metadata.ino());
        Some(match intent {
            Intent::Open { path, existed: false, .. } => {
                Effect::Made { inode: inode(&path)?, path, folder: false }
            }
            Intent::Open { path, truncates: true, .. } => Effect::Resized { inode: inode(&path)?, size: 0 },
            Intent::Open { .. } => return None,
            Intent::Folder(path) => Effect::Made { inode: inode(&path)?, path, folder: true },
            Intent::Write { inode, offset, mut bytes } => {
                bytes.truncate(usize::try_from(result).ok()?);
                Effect::Wrote { inode, offset, bytes }
            }
            Intent::Done(effect) => effect,
        })
    }

    /// What the call is about; `None` if not the directory, nor an answer.
    fn look(&self, thread: Pid, registers: &libc::user_regs_struct) -> Option<Pending> {
        let [a, b, c, d] = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        let at = |folder: u64, text: u64| self.path(thread, Some(folder), text);
        let here = |text: u64| self.path(thread, None, text);
        let done = |effect| (false, Some(Intent::Done(effect)));
        let number = registers.orig_rax.cast_signed() as c_long;
        let (name, about, (looks, intent)) = match number {
            libc::SYS_open | libc::SYS_openat => {
                let (path, flags) = if number == libc::SYS_open { (here(a)?, b) } else { (at(a, b)?, c) };
                let flags = i32::try_from(flags).unwrap_or(0);
                let existed = self.root.join(&path).symlink_metadata().is_ok();
                let truncates = flags & libc::O_TRUNC != 0;
                let changes = (flags & libc::O_CREAT != 0 && !existed) || truncates;
                let intent = Intent::Open { path: path.clone(), existed, truncates };
                let name = if changes { "create" } else { "open" };
                (name, vec![path], (!changes, changes.then_some(intent)))
            }
            libc::SYS_mkdir | libc::SYS_mkdirat => {
                let path = if number == libc::SYS_mkdir { here(a)? } else { at(a, b)? };
                ("mkdir", vec![path.clone()], (false, Some(Intent::Folder(path))))
            }
            libc::SYS_link
            | libc::SYS_linkat
            | libc::SYS_rename
            | libc::SYS_renameat
            | libc::SYS_renameat2 => {
                let (from, to) = match number {
                    libc::SYS_link | libc::SYS_rename => (here(a)?, here(b)?),
                    _ => (at(a, b)?, at(c, d)?),
                };
                let links = [libc::SYS_link, libc::SYS_linkat].contains(&number);
                let about = vec![from.clone(), to.clone()];
                if links {
                    ("link", about, done(Effect::Linked { from, to }))
                } else {
                    ("rename", about, done(Effect::Renamed { from, to }))
                }
            }
            libc::SYS_unlink | libc::SYS_rmdir | libc::SYS_unlinkat => {
                let path = if number == libc::SYS_unlinkat { at(a, b)? } else { here(a)? };
                let folder = number == libc::SYS_rmdir
                    || number == libc::SYS_unlinkat && c == u64::from(libc::AT_REMOVEDIR.cast_unsigned());
                let name = if folder { "rmdir" } else { "unlink" };
                (name, vec![path.clone()], done(Effect::Removed { path }))
            }
            libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_sendto => {
                let file = fd(thread, a)?;
                if file.to_str()?.starts_with("socket:") {
                    return self.answer(thread, number, b, c);
                }
                let path = file.strip_prefix(&self.root).ok()?.to_owned();
                let bytes =
                    if self.keep { self.read(thread, b, usize::try_from(c).ok()?) } else { Vec::new() };
                // The program writes at an offset; another would have to be found out from the position of the file.
                assert!(number == libc::SYS_pwrite64, "`{}` is written without an offset", path.display());
                let intent = Intent::Write { inode: inode(thread, a)?, offset: d, bytes };
                ("write", vec![path], (false, Some(intent)))
            }
            libc::SYS_ftruncate => {
                let path = self.file(thread, a)?;
                ("truncate", vec![path], done(Effect::Resized { inode: inode(thread, a)?, size: b }))
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                let path = self.file(thread, a)?;
                ("sync", vec![path], done(Effect::Synced { inode: inode(thread, a)? }))
            }
            // Times are not replayed, so nothing is kept.
            libc::SYS_utimensat => ("utimens", vec![self.file(thread, a)?], (false, None)),
            libc::SYS_flock => ("lock", vec![self.file(thread, a)?], (true, None)),
            libc::SYS_getdents64 => ("list", vec![self.file(thread, a)?], (true, None)),
            libc::SYS_read | libc::SYS_pread64 => ("read", vec![self.file(thread, a)?], (true, None)),
            libc::SYS_stat | libc::SYS_lstat => ("stat", vec![here(a)?], (true, None)),
            libc::SYS_fstat => ("stat", vec![self.file(thread, a)?], (true, None)),
            libc::SYS_statx | libc::SYS_newfstatat => {
                // An empty path, or none, means the file itself.
                let path = self.path(thread, Some(a), b).or_else(|| self.file(thread, a))?;
                ("stat", vec![path], (true, None))
            }
            _ => return None,
        };
        let about: Vec<String> = about.iter().map(|path| anonymous(path)).collect();
        Some(Pending {
            site: format!("{name} {}", about.join(" ")),
            looks,
            intent,
            number: 0,
            deed: Deed::Honest,
        })
    }

    /// The head of an answer on its way out.
    fn answer(&self, thread: Pid, number: c_long, address: u64, length: u64) -> Option<Pending> {
        let start = if number == libc::SYS_writev {
            let vector = self.read(thread, address, 16);
            let word = |at: usize| Some(u64::from_ne_bytes(vector.get(at..at + 8)?.try_into().ok()?));
            self.read(thread, word(0)?, usize::try_from(word(8)?).ok()?.min(12))
        } else {
            self.read(thread, address, usize::try_from(length).ok()?.min(12))
        };
        let status = std::str::from_utf8(start.strip_prefix(b"HTTP/1.1 ")?).ok()?.parse().ok()?;
        Some(Pending {
            site: format!("answer {status}"),
            looks: false,
            intent: Some(Intent::Done(Effect::Answered(status))),
            number: 0,
            deed: Deed::Honest,
        })
    }

    /// A path below the root, relative to it.
    fn path(&self, thread: Pid, folder: Option<u64>, address: u64) -> Option<PathBuf> {
        let bytes = self.read(thread, address, 4096);
        let text = std::str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()?;
        let path = Path::new(text);
        if text.is_empty() {
            return None;
        }
        if path.is_absolute() {
            return path.strip_prefix(&self.root).ok().map(Path::to_owned);
        }
        let from = match folder.map(descriptor) {
            None | Some(libc::AT_FDCWD) => fs::read_link(format!("/proc/{thread}/cwd")).ok()?,
            Some(folder) => fd(thread, folder.cast_unsigned().into())?,
        };
        from.join(path).strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    fn file(&self, thread: Pid, number: u64) -> Option<PathBuf> {
        fd(thread, number)?.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    /// So many bytes of the process's memory, or as many as there are.
    #[expect(clippy::unused_self, reason = "reads like the others")]
    fn read(&self, thread: Pid, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let (mut done, base) = (0, usize::try_from(address).unwrap_or(0));
        // Page by page: one that is missing behind the end of a text is no error.
        while base != 0 && done < length {
            let from = base + done;
            let step = (length - done).min(if length > 4096 { length } else { 4096 - from % 4096 });
            let local = &mut [IoSliceMut::new(&mut bytes[done..done + step])];
            match process_vm_readv(thread, local, &[RemoteIoVec { base: from, len: step }]) {
                Ok(read) if read > 0 => done += read,
                _ => break,
            }
        }
        bytes.truncate(done);
        bytes
    }
}

/// A register's lower half.
fn descriptor(register: u64) -> i32 {
    u32::try_from(register & 0xffff_ffff).unwrap_or(0).cast_signed()
}

/// What a file descriptor is of.
fn fd(thread: Pid, number: u64) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{thread}/fd/{}", descriptor(number))).ok()
}

fn inode(thread: Pid, number: u64) -> Option<u64> {
    fs::metadata(format!("/proc/{thread}/fd/{}", descriptor(number))).ok().map(|metadata| metadata.ino())
}

/// A path without what is different in every run.
fn anonymous(path: &Path) -> String {
    let text = path.to_string_lossy();
    let parts = text.split('/').map(|part| {
        let part = part.strip_suffix(" (deleted)").unwrap_or(part);
        let (stem, end) = part.split_once('.').map_or((part, ""), |(stem, end)| (stem, end));
        let chance = |text: &str| {
            text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        };
        match end {
            _ if !chance(stem) => part.to_owned(),
            "" => "*".to_owned(),
            "json" | "link" => format!("*.{end}"),
            _ => "MARKER".to_owned(),
        }
    });
    let text = parts.collect::<Vec<_>>().join("/");
    if text.is_empty() { ".".to_owned() } else { text }
}
