//! Traces: what some of the connects, publishes, fan-outs and sends took, for whoever collects them.
//!
//! A node that is given no [`Tracer`] has no [`Traces`] either, and pays for the look at one pointer. With one it follows
//! a sample of what happens: all of it while that is little, and half as much, and half of that, whenever it becomes more
//! than [`TRACES_PER_SECOND_MAX`].
//!
//! Which publications are followed, and the name of their trace, come from their ids, which every node finds in them. So the
//! publisher's span and the fan-outs of all nodes meet in one trace, while nothing crosses the wire that Node peers would have
//! to know; and a trace tells nothing of what is said, or to whom.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tidegate_core::{MessageId, Publication, ids};
use tidegate_msgpack::Reader;
use tokio::time::Instant;

/// Spans that a node has in a second, before it follows fewer: its own publishes, and what it delivers, are one each.
pub const TRACES_PER_SECOND_MAX: u32 = 100;

/// Below so many a second it follows more again. A quarter, for twice as many must be well below the most.
const TRACES_PER_SECOND_FEW: u32 = TRACES_PER_SECOND_MAX / 4;

/// Takes spans that have ended.
pub trait Tracer: Send + Sync + 'static {
    /// One of them. Never blocks; what cannot be taken is dropped.
    fn ended(&self, span: Span);
}

/// Something that took a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// What was done: `connect`, `publish`, `fanout` or `send`.
    pub name: &'static str,
    /// The trace that it belongs to.
    pub trace: [u8; 16],
    /// Itself.
    pub id: [u8; 8],
    /// The span that it is a part of, perhaps on another node.
    pub parent: Option<[u8; 8]>,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// What is to be known of it. No value is a user's, a room's or what a message holds.
    pub attributes: Vec<(&'static str, Value)>,
    /// The code of the error that it ended with.
    pub error: Option<&'static str>,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A word or a name.
    Text(String),
    /// A count.
    Number(u64),
    /// Yes or no.
    Flag(bool),
}

/// What a node follows.
pub(crate) struct Traces {
    tracer: Arc<dyn Tracer>,
    pace: Mutex<Pace>,
}

/// One of two to the power of `level` is followed.
struct Pace {
    level: u32,
    since: Instant,
    /// Those of this second that the level lets pass.
    drawn: u32,
}

impl Pace {
    /// Whether what is drawn as `lot` is followed.
    fn admits(&mut self, lot: u64, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            // What is followed at one level is among what is at a lower one, so that nodes agree as far as they can.
            let times_too_many = self.drawn.div_ceil(TRACES_PER_SECOND_MAX).max(1);
            if times_too_many > 1 {
                self.level += times_too_many.next_power_of_two().ilog2();
            } else if self.drawn < TRACES_PER_SECOND_FEW {
                self.level = self.level.saturating_sub(1);
            }
            (self.since, self.drawn) = (now, 0);
        }
        if lot.trailing_zeros() < self.level {
            return false;
        }
        self.drawn = self.drawn.saturating_add(1);
        self.drawn <= TRACES_PER_SECOND_MAX
    }
}

impl Traces {
    pub(crate) fn new(tracer: Arc<dyn Tracer>) -> Arc<Self> {
        Arc::new(Self { tracer, pace: Mutex::new(Pace { level: 0, since: Instant::now(), drawn: 0 }) })
    }

    /// Something that nobody else knows of has begun.
    pub(crate) fn begin(self: &Arc<Self>, name: &'static str) -> Option<Followed> {
        let trace = u128::from_be_bytes(ids::random_bytes());
        self.follow(name, trace, false)
    }

    /// A publication is on its way to the broker.
    pub(crate) fn publishing(
        self: &Arc<Self>,
        publication: &Publication,
        id: &MessageId,
    ) -> Option<Followed> {
        let mut followed = self.follow("publish", named(id.as_str()), false)?;
        followed.note("tidegate.namespace", publication.namespace.as_str());
        followed.note("tidegate.message", id.as_str());
        Some(followed)
    }

    /// A publication has come from the broker.
    pub(crate) fn delivering(self: &Arc<Self>, publication: &Publication) -> Option<Followed> {
        let id = publication.flags.meta.then(|| id(&publication.data)).flatten();
        // What others have published has none.
        let trace = id.map_or_else(|| u128::from_be_bytes(ids::random_bytes()), named);
        let mut followed = self.follow("fanout", trace, id.is_some())?;
        followed.note("tidegate.namespace", publication.namespace.as_str());
        Some(followed)
    }

    fn follow(self: &Arc<Self>, name: &'static str, trace: u128, is_part: bool) -> Option<Followed> {
        // The upper half draws the lot, the lower one names the span that others are parts of.
        let [upper, lower] = [(trace >> 64) as u64, trace as u64];
        let now = Instant::now();
        if !self.pace.lock().admits(upper, now) {
            return None;
        }
        let root = lower.to_be_bytes();
        let span = Span {
            name,
            trace: trace.to_be_bytes(),
            id: if is_part { ids::random_bytes() } else { root },
            parent: is_part.then_some(root),
            began: SystemTime::now(),
            took: Duration::ZERO,
            attributes: Vec::new(),
            error: None,
        };
        Some(Followed {
            traces: Arc::clone(self),
            began: now,
            span: Box::new(span),
            count: AtomicU64::new(0),
        })
    }
}

/// A span under way. Dropped without an end it is forgotten.
pub(crate) struct Followed {
    traces: Arc<Traces>,
    began: Instant,
    span: Box<Span>,
    /// Receivers.
    count: AtomicU64,
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Followed").field(&self.span).finish()
    }
}

impl Followed {
    pub(crate) fn note(&mut self, name: &'static str, value: &str) {
        self.span.attributes.push((name, Value::Text(value.to_owned())));
    }

    pub(crate) fn flag(&mut self, name: &'static str, value: bool) {
        self.span.attributes.push((name, Value::Flag(value)));
    }

    /// So many more receivers.
    pub(crate) fn reached(&self, receivers: u64) {
        self.count.fetch_add(receivers, Ordering::Relaxed);
    }

    /// It is over, with the code of an error if it failed.
    pub(crate) fn end(mut self, error: Option<&'static str>) {
        self.span.took = self.began.elapsed();
        self.span.error = error;
        self.traces.tracer.ended(*self.span);
    }

    /// The fan-out is over. It may be known to others still, who have nothing to add.
    pub(crate) fn delivered(&self) {
        let mut span = Span::clone(&self.span);
        span.took = self.began.elapsed();
        span.attributes.push(("tidegate.receivers", Value::Number(self.count.load(Ordering::Relaxed))));
        self.traces.tracer.ended(span);
    }
}

/// The id of a publication of ours, `[event, data, { id, ... }]`.
fn id(data: &[u8]) -> Option<&str> {
    let mut reader = Reader::new(data);
    for _ in 1..reader.array().ok()? {
        reader.skip().ok()?;
    }
    (reader.map().ok()? > 0 && reader.str() == Ok("id")).then(|| reader.str().ok()).flatten()
}

/// FNV-1a of 128 bits. Source: draft-eastlake-fnv, section 5. Stable, which the hashes of the standard library are not
/// between two builds.
fn named(id: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = id.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    // The low bits of one factor hardly reach the upper half's; a turn and one more round mix them.
    (hash ^ hash.rotate_right(61)).wrapping_mul(PRIME | 1 << 64)
}

#[cfg(test)]
mod tests {
    use tidegate_core::{Flags, Namespace, Rooms};
    use tidegate_msgpack::write;

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Span>>);

    impl Tracer for Kept {
        fn ended(&self, span: Span) {
            self.0.lock().push(span);
        }
    }

    fn publication(data: &[u8], meta: bool) -> Publication {
        Publication {
            namespace: Namespace::root(),
            rooms: Rooms::new(),
            except: Rooms::new(),
            flags: Flags { meta, ..Flags::default() },
            data: data.to_vec().into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_publish_and_its_fan_outs_meet_in_one_trace() {
        let (one, other) = (Arc::new(Kept::default()), Arc::new(Kept::default()));
        let (a, b) = (Traces::new(Arc::clone(&one) as _), Traces::new(Arc::clone(&other) as _));
        // With the longest names that may follow the id.
        let message = MessageId::new(1);
        let mut data = Vec::new();
        write::array(&mut data, 3);
        write::str(&mut data, "event");
        write::str(&mut data, "data");
        write::map(&mut data, 2);
        for (key, value) in [("id", message.as_str()), ("room", &"r".repeat(4_096))] {
            write::str(&mut data, key);
            write::str(&mut data, value);
        }
        let sent = publication(&data, true);
        let publishing = a.publishing(&sent, &message).unwrap();
        let delivering = b.delivering(&sent).unwrap();
        tokio::time::advance(Duration::from_millis(3)).await;
        delivering.reached(2);
        delivering.reached(3);
        delivering.delivered();
        publishing.end(Some("unavailable"));
        let (published, delivered) = (one.0.lock()[0].clone(), other.0.lock()[0].clone());
        assert_eq!(
            (published.name, published.parent, published.error),
            ("publish", None, Some("unavailable"))
        );
        assert_eq!(delivered.trace, published.trace);
        assert_eq!(delivered.parent, Some(published.id));
        assert_ne!(delivered.id, published.id);
        assert_eq!(delivered.took, Duration::from_millis(3));
        assert_eq!(delivered.attributes[1], ("tidegate.receivers", Value::Number(5)));

        // What others have published has no publisher to be a part of, and no name of its own.
        let strange = publication(b"tick", false);
        for _ in 0..2 {
            b.delivering(&strange).unwrap().delivered();
        }
        let [.., first, second] = &other.0.lock()[..] else { panic!("they are followed") };
        assert!(first.trace != second.trace && first.parent.is_none());
    }

    #[test]
    fn names_are_spread_over_all_levels() {
        let mut seen = [0_u32; 4];
        for number in 0..4_096_u32 {
            let lot = (named(&number.to_string()) >> 64) as u64;
            let level = lot.trailing_zeros() as usize;
            if level < seen.len() {
                seen[level] += 1;
            }
        }
        for (level, count) in seen.into_iter().enumerate() {
            let expected = 4_096 >> (level + 1);
            assert!(count.abs_diff(expected) < expected / 3 + 20, "{level}: {count} of {expected}");
        }
        assert_eq!(id(b"\x91\xa1e"), None);
        assert_eq!(id(b""), None);
    }

    /// In virtual time.
    #[tokio::test(start_paused = true)]
    async fn under_load_a_sample_is_followed() {
        let kept = Arc::new(Kept::default());
        let traces = Traces::new(Arc::clone(&kept) as _);
        let mut most = 0;
        for second in 0..30 {
            for _ in 0..20_000 {
                if let Some(followed) = traces.begin("connect") {
                    followed.end(None);
                }
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            let count = std::mem::take(&mut *kept.0.lock()).len();
            assert!(count <= TRACES_PER_SECOND_MAX as usize, "{count}");
            assert!(count > 0, "nobody is followed in second {second}");
            most = most.max(count);
        }
        assert_eq!(most, TRACES_PER_SECOND_MAX as usize);
        // When it is quiet, everything is, after a while.
        for _ in 0..70 {
            tokio::time::advance(Duration::from_secs(1)).await;
            traces.begin("connect");
        }
        for _ in 0..10 {
            assert!(traces.begin("connect").is_some());
        }
    }
}
