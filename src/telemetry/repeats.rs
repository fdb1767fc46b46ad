//! Warnings that come again and again: the first ones are written, the others counted. A store that is away for a day makes
//! every reader fail, each with a warning; the first few say it all.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one kind that are written within a [`WINDOW`] ...
const WRITTEN_MAX: u32 = 10;
/// ... and when there were more of it in the window before.
const WRITTEN_WHILE_REPEATING: u32 = 1;
/// For how long lines are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// What the lines that tell counts come from; they are never held back.
const TARGET: &str = "sailvol::repeats";
/// Longest text that is kept of a line, bytes.
const TEXT_BYTES_MAX: usize = 400;

/// Holds back warnings and errors of which there are too many. A kind is a place in the source.
#[derive(Clone, Default)]
pub(super) struct Repeats(Arc<Mutex<HashMap<Identifier, Kind>>>);

struct Kind {
    since: Instant,
    written: u32,
    written_max: u32,
    held: u64,
    /// The last one that was held back.
    text: String,
}

impl Kind {
    fn new(now: Instant) -> Kind {
        Kind {
            since: now,
            written: 0,
            written_max: WRITTEN_MAX,
            held: 0,
            text: String::new(),
        }
    }

    /// Begins another window if this one is over; gives how many were held back in it, with the last of them.
    fn turn(&mut self, now: Instant, at_once: bool) -> Option<(u64, String)> {
        if !at_once && now.duration_since(self.since) < WINDOW {
            return None;
        }
        let held = std::mem::take(&mut self.held);
        *self = Kind {
            written_max: if held > 0 {
                WRITTEN_WHILE_REPEATING
            } else {
                WRITTEN_MAX
            },
            text: std::mem::take(&mut self.text),
            ..Kind::new(now)
        };
        (held > 0).then(|| (held, std::mem::take(&mut self.text)))
    }
}

static OF_THIS_PROCESS: OnceLock<Repeats> = OnceLock::new();

/// Writes how many lines were held back, of each kind whose minute is over; of all when the process ends (`at_once`). To be
/// called now and then.
pub fn tell_repeats(at_once: bool) {
    let Some(repeats) = OF_THIS_PROCESS.get() else {
        return;
    };
    for (held, text) in repeats.due(Instant::now(), at_once) {
        tracing::warn!(target: TARGET, "{held} more like this: {text}");
    }
}

impl Repeats {
    /// The one of this process.
    pub fn of_this_process() -> Repeats {
        OF_THIS_PROCESS.get_or_init(Repeats::default).clone()
    }

    fn due(&self, now: Instant, at_once: bool) -> Vec<(u64, String)> {
        let mut kinds = self.0.lock();
        let due = kinds
            .values_mut()
            .filter_map(|kind| kind.turn(now, at_once))
            .collect();
        // Bounded by the places in the source; those that are quiet go.
        kinds.retain(|_, kind| kind.held > 0 || now.duration_since(kind.since) < WINDOW);
        due
    }

    fn may_be_written(&self, of: Identifier, now: Instant, text: impl FnOnce() -> String) -> bool {
        let mut kinds = self.0.lock();
        let kind = kinds.entry(of).or_insert_with(|| Kind::new(now));
        if kind.written < kind.written_max {
            kind.written += 1;
            return true;
        }
        kind.held += 1;
        kind.text = text();
        false
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == TARGET {
            return true;
        }
        self.may_be_written(metadata.callsite(), Instant::now(), || {
            let mut text = Text::default();
            event.record(&mut text);
            text.0
        })
    }
}

/// A line in words: its message, then its fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let before = std::mem::take(&mut self.0);
        let written = match field.name() {
            "message" => write!(self.0, "{value:?} {before}"),
            name => write!(self.0, "{before}{name}={value:?} "),
        };
        // A string takes everything.
        debug_assert!(written.is_ok());
        let end = self.0.floor_char_boundary(TEXT_BYTES_MAX);
        self.0.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_comes_again_and_again_is_counted() {
        let (lines, repeats) = (Lines::default(), Repeats::default());
        let sink = lines.clone();
        let logs = tracing_subscriber::registry()
            .with(repeats.clone())
            .with(tracing_subscriber::fmt::layer().with_writer(move || sink.clone()));
        tracing::subscriber::with_default(logs, || {
            for number in 0..1000 {
                tracing::warn!(number, "a read failed");
                tracing::info!(number, "an ordinary line");
            }
            tracing::warn!("something else");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let written = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(written("a read failed"), WRITTEN_MAX as usize);
        assert_eq!(
            (written("an ordinary line"), written("something else")),
            (1000, 1)
        );
        assert_eq!(repeats.due(Instant::now(), false), []);
        let due = repeats.due(Instant::now() + WINDOW, false);
        assert_eq!(due, [(990, "a read failed number=999 ".to_owned())]);
    }

    #[test]
    fn as_long_as_it_goes_on_one_line_a_minute_is_written() {
        let repeats = Repeats::default();
        let place = {
            static PLACE: std::sync::OnceLock<Identifier> = std::sync::OnceLock::new();
            struct Find;
            impl<S: Subscriber> Layer<S> for Find {
                fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
                    PLACE.get_or_init(|| event.metadata().callsite());
                    true
                }
            }
            tracing::subscriber::with_default(tracing_subscriber::registry().with(Find), || {
                tracing::warn!("x")
            });
            PLACE.get().unwrap().clone()
        };
        let begun = Instant::now();
        let mut written = Vec::new();
        for minute in 0u32..4 {
            let now = begun + WINDOW * minute;
            repeats.due(now, false);
            let lines = (0..100).filter(|_| repeats.may_be_written(place.clone(), now, String::new));
            written.push(lines.count());
        }
        assert_eq!(written, [10, 1, 1, 1]);
        // After a quiet minute it is news again.
        repeats.due(begun + WINDOW * 4, false);
        repeats.due(begun + WINDOW * 5, false);
        assert!((0..10).all(|_| repeats.may_be_written(place.clone(), begun + WINDOW * 5, String::new)));
    }
}
