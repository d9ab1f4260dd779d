//! Where log lines go on their way out: collected for a moment, then written together.
//!
//! A busy server writes tens of thousands of lines a second. One system call for each, under one lock, costs it a
//! third of what it could answer.
//!
//! - The first line after a pause is written at once, every other within [`PAUSE`]; warnings and errors before the
//!   call that logs them returns, and with them all that came before.
//! - Nothing is dropped: while the reader is slower than the server, those who log wait.
//! - Lines come out whole and in order. [`flush`](Output::flush) before the process ends, or the last are lost.

use std::{
    io::{self, Write},
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// How long lines are collected.
const PAUSE: Duration = Duration::from_millis(50);

/// As soon as this much is collected, in bytes, whoever logs next writes it.
const FULL: usize = 64 * 1024;

/// Writes lines to `W`, several at a time. Whoever holds both locks took `pen` first.
pub(super) struct Output<W> {
    /// Lines not yet taken.
    lines: Mutex<Vec<u8>>,
    /// Lines being written, and to what. What was taken earlier is written before more is taken.
    pen: Mutex<(Vec<u8>, W)>,
    some: Condvar,
}

impl<W: Write> Output<W> {
    pub(super) const fn new(to: W) -> Self {
        Self { lines: Mutex::new(Vec::new()), pen: Mutex::new((Vec::new(), to)), some: Condvar::new() }
    }

    /// Writes everything collected so far; when this returns, it is out.
    pub(super) fn flush(&self) {
        let mut pen = held(&self.pen);
        let (taken, to) = &mut *pen;
        mem::swap(taken, &mut *held(&self.lines));
        // A log nobody reads any more is no reason to stop.
        let _ = to.write_all(taken).and_then(|()| to.flush());
        taken.clear();
    }

    /// Writes what was collected for [`PAUSE`], for ever.
    fn run(&self) {
        loop {
            drop(self.some.wait_while(held(&self.lines), |lines| lines.is_empty()));
            self.flush();
            thread::sleep(PAUSE);
        }
    }

    fn push(&self, line: &[u8], urgent: bool) {
        let collected = {
            let mut lines = held(&self.lines);
            lines.extend_from_slice(line);
            lines.len()
        };
        if urgent || collected >= FULL {
            self.flush();
        } else if collected == line.len() {
            self.some.notify_one();
        }
    }
}

impl Output<io::Stdout> {
    /// Starts the thread that writes.
    pub(super) fn start(&'static self) -> io::Result<()> {
        thread::Builder::new().name("log".into()).spawn(|| self.run()).map(drop)
    }
}

impl<'a, W: Write + 'a> MakeWriter<'a> for &'static Output<W> {
    type Writer = Pen<'a, W>;

    fn make_writer(&'a self) -> Self::Writer {
        Pen { output: self, urgent: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        Pen { output: self, urgent: *metadata.level() <= Level::WARN }
    }
}

/// Takes one line.
pub(super) struct Pen<'a, W> {
    output: &'a Output<W>,
    urgent: bool,
}

impl<W: Write> Write for Pen<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.output.push(line, self.urgent);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush();
        Ok(())
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// What has been written, one entry a write.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<String>>>);

    impl Paper {
        fn written(&self) -> Vec<String> {
            held(&self.0).clone()
        }
    }

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            held(&self.0).push(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_together_and_an_urgent_one_takes_along_what_came_before() {
        let paper = Paper::default();
        let output = Output::new(paper.clone());
        output.push(b"a\n", false);
        output.push(b"b\n", false);
        assert!(paper.written().is_empty());
        output.push(b"error\n", true);
        assert_eq!(paper.written(), ["a\nb\nerror\n"]);
        output.push(b"c\n", false);
        output.flush();
        assert_eq!(paper.written()[1..], ["c\n"]);
    }

    #[test]
    fn a_lone_line_does_not_wait_for_others() {
        let paper = Paper::default();
        let output: &'static Output<Paper> = Box::leak(Box::new(Output::new(paper.clone())));
        thread::spawn(|| output.run());
        output.push(b"alone\n", false);
        let written = (0..1000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            paper.written() == ["alone\n"]
        });
        assert!(written);
    }

    #[test]
    fn no_line_is_lost_torn_or_out_of_order_when_many_write() {
        let paper = Paper::default();
        let output = Output::new(paper.clone());
        thread::scope(|scope| {
            for writer in 0..4 {
                let output = &output;
                scope.spawn(move || {
                    for line in 0..5000 {
                        output.push(format!("{writer} {line}\n").as_bytes(), line % 1000 == 0);
                    }
                });
            }
        });
        output.flush();
        let text = paper.written().concat();
        for writer in 0..4 {
            let lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{writer} ")));
            let expected = (0..5000).map(|line: usize| line.to_string());
            assert!(lines.eq(expected), "the lines of writer {writer}");
        }
    }
}
