//! Logs: one JSON object a line on standard output, or text for eyes on a terminal.
//!
//! - A line is `timestamp`, `level`, `event`, `message`, `module`, then the event's fields and those of the spans it
//!   is in, flat; the event's own win over its spans', an inner span's over an outer one's.
//! - No field can pose as one of those five, and no text can begin a line of its own.
//! - A line is written whole; see `telemetry/output.rs` for when.
//!
//! In code: `info!(event = "hash", package.name = %name, size_bytes, "found the digest of `{name}`")`. Keeping secrets out of
//! fields and messages is left to the caller, see [`crate::config::Secret`].

mod output;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    error::Error,
    fmt,
    io::{self, IsTerminal as _, Stdout, Write as _},
    ops::Range,
    panic::{self, PanicHookInfo},
    sync::LazyLock,
    thread,
    time::SystemTime,
};

use anyhow::{Context as _, anyhow};
use chrono::Local;
use serde::Serialize;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::{MakeWriter, format::Writer, time::FormatTime},
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};
use output::Output;

/// How long a line commonly is at most.
const LINE_BYTES: usize = 512;

static OUTPUT: LazyLock<Output<Stdout>> = LazyLock::new(|| Output::new(io::stdout()));

/// Starts the log of this process, panics included. To be called once; [`flush`] before the process ends.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let terminal = io::stdout().is_terminal();
    let text = match log.format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    let json = (!text).then_some(JsonLines { writer: &*OUTPUT });
    let text = text.then(|| tracing_subscriber::fmt::layer().compact().with_timer(Clock).with_ansi(terminal));
    let filter = filter(&log.level).context("`log.level` is wrong")?;
    OUTPUT.start().context("cannot start the log's thread")?;
    tracing_subscriber::registry()
        .with(filter)
        .with(json)
        .with(text)
        .try_init()
        .context("the log runs already")?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Writes the log lines that are still held back; when this returns, they are out.
pub fn flush() {
    OUTPUT.flush();
}

/// Reads a filter such as `info` or `info,release_server=debug`.
///
/// `Targets` takes a misspelt level for the name of a module, and then logs nothing; here it is refused.
pub fn filter(level: &str) -> anyhow::Result<Targets> {
    let wanted =
        "write `error`, `warn`, `info`, `debug`, `trace` or `off`, or by module `info,release_server=debug`";
    if level.trim().is_empty() {
        return Err(anyhow!("it is empty; {wanted}"));
    }
    let directives: Vec<_> = level.split(',').map(str::trim).collect();
    let is_level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let is_module = |text: &str| {
        !text.is_empty() && text.chars().all(|char| char.is_ascii_alphanumeric() || "_-:".contains(char))
    };
    for directive in &directives {
        let fine = match directive.split_once('=') {
            Some((module, level)) => is_module(module) && is_level(level),
            None => is_level(directive),
        };
        if !fine {
            return Err(anyhow!("`{directive}` is no level; {wanted}"));
        }
    }
    directives.join(",").parse().map_err(|error| anyhow!("{error}; {wanted}"))
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(
        event = "panic",
        location = info.location().map(tracing::field::display),
        thread = thread::current().name(),
        backtrace,
        "panicked: {}",
        info.payload_as_str().unwrap_or("(no message)"),
    );
}

/// The time of day, for a reader who sits in front of it.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", Local::now().format("%H:%M:%S%.3f"))
    }
}

/// Writes events as JSON.
struct JsonLines<W> {
    writer: W,
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::new();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::new();
        event.record(&mut fields);
        let mut line = Line::begin(event.metadata(), &fields);
        line.add(&fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                line.add(outer);
            }
        }
        // It is the writer's to care for what becomes of it.
        let _ = self.writer.make_writer_for(event.metadata()).write_all(&line.end());
    }
}

/// Names and values in the order they were recorded, each name once. A busy server logs tens of thousands of events a
/// second, so values are JSON from the start.
#[derive(Debug)]
struct Fields {
    json: Vec<u8>,
    values: Vec<(&'static str, Range<usize>)>,
}

impl Fields {
    /// With room for those of a request.
    fn new() -> Self {
        Self { json: Vec::with_capacity(LINE_BYTES / 2), values: Vec::with_capacity(12) }
    }

    fn set(&mut self, field: &Field, value: &(impl Serialize + ?Sized)) {
        let name = field.name().trim_start_matches("r#");
        let begin = self.json.len();
        if serde_json::to_writer(&mut self.json, value).is_err() {
            self.json.truncate(begin);
            self.json.extend_from_slice(b"null");
        }
        let place = begin..self.json.len();
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = place,
            None => self.values.push((name, place)),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.values.iter().map(|(name, place)| (*name, &self.json[place.clone()]))
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, &value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }

    /// The error and its causes, as one text.
    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let causes = std::iter::successors(Some(value), |&error| error.source());
        self.set(field, &causes.map(ToString::to_string).collect::<Vec<_>>().join(": "));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, &format_args!("{value:?}"));
    }
}

/// A line in the making.
struct Line {
    json: Vec<u8>,
    /// The names it has already.
    names: Vec<&'static str>,
}

impl Line {
    /// The five keys that every line begins with.
    fn begin(metadata: &Metadata<'_>, fields: &Fields) -> Self {
        let mut names = Vec::with_capacity(24);
        names.extend(["timestamp", "level", "event", "message", "module"]);
        // Crates that use `log` come with their own target in a field, see the crate `tracing-log`.
        let foreign = metadata.target() == "log";
        if foreign {
            names.extend(["log.target", "log.module_path", "log.file", "log.line"]);
        }
        let level = match *metadata.level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warn",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        };
        let event = fields.get("event").unwrap_or(br#""log""#);
        let target = foreign.then(|| fields.get("log.target")).flatten();

        let mut line = Self { json: Vec::with_capacity(LINE_BYTES), names };
        line.json.extend_from_slice(br#"{"timestamp":"#);
        line.text(&format_args!("{}", humantime::format_rfc3339_millis(SystemTime::now())));
        line.json.extend_from_slice(br#","level":"#);
        line.text(level);
        line.json.extend_from_slice(br#","event":"#);
        line.quoted(event);
        line.json.extend_from_slice(br#","message":"#);
        line.quoted(fields.get("message").unwrap_or(event));
        line.json.extend_from_slice(br#","module":"#);
        match target {
            Some(target) => line.quoted(target),
            None => line.text(metadata.target()),
        }
        line
    }

    /// Adds the fields whose names it does not have.
    fn add(&mut self, fields: &Fields) {
        for (name, value) in fields.iter() {
            if !self.names.contains(&name) {
                self.names.push(name);
                self.json.push(b',');
                self.text(name);
                self.json.push(b':');
                self.json.extend_from_slice(value);
            }
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.json.extend_from_slice(b"}\n");
        self.json
    }

    fn text(&mut self, text: &(impl Serialize + ?Sized)) {
        // What is written to memory, and is a text, cannot fail.
        let _ = serde_json::to_writer(&mut self.json, text);
    }

    /// Adds a value as a text, whatever it is.
    fn quoted(&mut self, value: &[u8]) {
        if value.starts_with(b"\"") {
            self.json.extend_from_slice(value);
        } else {
            self.text(&String::from_utf8_lossy(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use chrono::Utc;
    use serde_json::Value;
    use tracing::{debug, error, info, info_span, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What `act` logs under `level`, each line as it was written.
    fn lines(level: &str, act: impl FnOnce()) -> Vec<String> {
        let buffer = Buffer::default();
        let copy = buffer.clone();
        let json = JsonLines { writer: move || copy.clone() };
        let subscriber = tracing_subscriber::registry().with(filter(level).unwrap()).with(json);
        tracing::subscriber::with_default(subscriber, act);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().split_terminator('\n').map(str::to_owned).collect()
    }

    fn line(act: impl FnOnce()) -> serde_json::Map<String, Value> {
        let lines = lines("info", act);
        assert_eq!(lines.len(), 1, "{lines:?}");
        serde_json::from_str(&lines[0]).unwrap()
    }

    #[test]
    fn a_line_has_the_five_keys_first_and_its_fields_flat_in_their_types() {
        let name = "app-1.0.0.zip";
        let line = line(|| {
            info!(event = "upload", package.name = %name, size_bytes = 12, new = true, ratio = 0.5, "stored `{name}`");
        });
        let keys: Vec<_> = line.keys().map(String::as_str).collect();
        let expected = [
            "timestamp",
            "level",
            "event",
            "message",
            "module",
            "package.name",
            "size_bytes",
            "new",
            "ratio",
        ];
        assert_eq!(keys, expected);
        assert_eq!(line["level"], "info");
        assert_eq!(line["event"], "upload");
        assert_eq!(line["message"], "stored `app-1.0.0.zip`");
        assert_eq!(line["module"], "release_server::telemetry::tests");
        assert_eq!(line["package.name"], name);
        assert_eq!(line["size_bytes"], 12);
        assert_eq!(line["new"], true);
        assert_eq!(line["ratio"], 0.5);
    }

    #[test]
    fn the_timestamp_is_utc_with_milliseconds() {
        let line = line(|| info!("hello"));
        let text = line["timestamp"].as_str().unwrap();
        assert_eq!(text.len(), "2025-01-31T12:00:00.000Z".len(), "{text}");
        assert!(text.ends_with('Z'), "{text}");
        let time = chrono::DateTime::parse_from_rfc3339(text).unwrap();
        assert!((Utc::now() - time.to_utc()).num_seconds().abs() < 60, "{text}");
    }

    #[test]
    fn an_event_without_a_name_or_a_message_has_both_all_the_same() {
        assert_eq!(line(|| info!("hello"))["event"], "log");
        let line = line(|| info!(event = "sweep", removed = 3));
        assert_eq!((&line["event"], &line["message"]), (&"sweep".into(), &"sweep".into()));
    }

    #[test]
    fn fields_of_spans_are_merged_and_the_innermost_wins() {
        let line = line(|| {
            let outer = info_span!("request", request_id = "r1", depth = 1, late = tracing::field::Empty);
            outer.record("late", "known now");
            let _outer = outer.entered();
            let _inner = info_span!("storage", depth = 2, step = "outer").entered();
            info!(step = "event", "hello");
        });
        assert_eq!(line["request_id"], "r1");
        assert_eq!(line["late"], "known now");
        assert_eq!(line["depth"], 2);
        assert_eq!(line["step"], "event");
    }

    #[test]
    fn no_field_can_pose_as_a_reserved_key() {
        let lines = lines("info", || {
            let _span =
                info_span!("request", event = "forged", message = "forged", timestamp = "forged").entered();
            info!(level = "forged", module = "forged", timestamp = "forged", "hello");
        });
        assert!(!lines[0].contains("forged"), "{}", lines[0]);
        assert!(lines[0].contains(r#""event":"log","message":"hello""#), "{}", lines[0]);
    }

    #[test]
    fn a_text_with_a_line_break_stays_on_its_line() {
        let line = line(|| info!(name = "a\nb\u{1b}[31m", "two\nlines"));
        assert_eq!(line["message"], "two\nlines");
        assert_eq!(line["name"], "a\nb\u{1b}[31m");
    }

    #[test]
    fn an_error_is_logged_with_its_causes() {
        let cause = io::Error::other("disk on fire");
        let error = crate::error::Error::Unavailable(anyhow::Error::new(cause));
        let line = line(|| error!(error = &error as &(dyn Error + 'static), "failed"));
        let text = line["error"].as_str().unwrap();
        assert!(text.starts_with("the storage is not available"), "{text}");
        assert!(text.ends_with(": disk on fire"), "{text}");
    }

    #[test]
    fn the_level_filters_by_severity_and_module() {
        let act = || {
            debug!("debug");
            warn!("warn");
            debug!(target: "other", "other");
        };
        assert_eq!(lines("info", act).len(), 1);
        assert_eq!(lines("debug", act).len(), 3);
        assert_eq!(lines("off, other=debug", act).len(), 1);
        assert_eq!(lines("off", act).len(), 0);
    }

    #[test]
    fn a_misspelt_level_is_refused_by_name() {
        for (level, named) in [
            ("inof", "`inof`"),
            ("info,release_server", "`release_server`"),
            ("info, release_server=loud", "`release_server=loud`"),
            ("[broken=debug", "`[broken=debug`"),
            ("info,", "``"),
            ("", "empty"),
        ] {
            let error = filter(level).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("write `error`"), "{level}: {error}");
        }
    }

    #[test]
    fn a_panic_is_logged_as_an_error() {
        let here = thread::current().id();
        let line = line(|| {
            // Tests panic on other threads too; their reports are left to the hook that was there.
            let previous = Arc::new(panic::take_hook());
            let others = Arc::clone(&previous);
            panic::set_hook(Box::new(move |info| {
                if thread::current().id() == here {
                    log_panic(info);
                } else {
                    others(info);
                }
            }));
            let result = panic::catch_unwind(|| panic!("the sky fell"));
            panic::set_hook(Box::new(move |info| previous(info)));
            assert!(result.is_err());
        });
        assert_eq!((&line["level"], &line["event"]), (&"error".into(), &"panic".into()));
        assert_eq!(line["message"], "panicked: the sky fell");
        assert!(line["location"].as_str().unwrap().contains("telemetry.rs:"), "{line:?}");
    }
}
