//! What waits for users: inboxes, idempotency keys and quotas, as long as the process lives.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::quality::RandomState;

use crate::ids::NodeId;
use crate::offline::{Full, Letter, Message, Page, Quotas, SendError, Sent, Serial, Span, Status, Stored};
use crate::registry::Place;

/// The quota of senders is counted by this.
const MINUTE_MS: u64 = 60_000;

/// Sends between two sweeps through everything, for what has expired where nobody looks.
const SENDS_PER_SWEEP: u32 = 1_024;

/// All inboxes. Bounded by the quotas of their places, and by their senders' for idempotency keys.
#[derive(Default)]
pub(super) struct Inboxes {
    places: HashMap<Place, Inbox, RandomState>,
    senders: HashMap<Place, Minute, RandomState>,
    sends: u32,
}

#[derive(Default)]
struct Inbox {
    messages: BTreeMap<Serial, Waiting>,
    bytes: u64,
    last: Serial,
    known: HashMap<Key, Known, RandomState>,
    /// How long nothing in it can be of use, once it is empty.
    used_at_ms: u64,
}

/// An idempotency key, and whose.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    sender: Option<Arc<str>>,
    id: Arc<str>,
}

struct Waiting {
    message: Message,
    expires_ms: u64,
}

#[derive(Clone, Copy)]
struct Known {
    serial: Serial,
    expires_ms: u64,
}

/// What one sender has sent in its minute.
struct Minute {
    began_ms: u64,
    attempts: u64,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Inboxes {
    /// One attempt of a sender.
    pub(super) fn take_token(&mut self, sender: &Place, max: u64, now_ms: u64) -> Result<(), SendError> {
        if max == 0 {
            return Ok(());
        }
        let minute = self.senders.entry(sender.clone()).or_insert(Minute { began_ms: now_ms, attempts: 0 });
        let left_ms = (minute.began_ms + MINUTE_MS).saturating_sub(now_ms);
        if left_ms == 0 {
            *minute = Minute { began_ms: now_ms, attempts: 0 };
        }
        minute.attempts += 1;
        if minute.attempts > max {
            return Err(SendError::RateLimited { retry_after: Duration::from_millis(left_ms) });
        }
        Ok(())
    }

    /// See [`OfflineStore::send`](crate::OfflineStore::send). Returns the message and the serial before it, unless
    /// nothing was stored.
    pub(super) fn store(
        &mut self,
        letter: &Letter,
        node: &NodeId,
        quotas: &Quotas,
        now_ms: u64,
    ) -> Result<(Sent, Option<(Message, Serial)>), SendError> {
        self.sweep(now_ms);
        let inbox = self.places.entry(letter.to.clone()).or_default();
        inbox.used_at_ms = now_ms;
        let sender = letter.from.user().cloned();
        let key = letter.id.as_ref().map(|id| Key { sender: sender.clone(), id: Arc::clone(id) });
        if let Some(known) = key.as_ref().and_then(|key| inbox.known.get(key))
            && now_ms < known.expires_ms
        {
            let sent =
                Sent { serial: known.serial, status: Status::Duplicate, expired: 0, count: 0, bytes: 0 };
            return Ok((sent, None));
        }
        let expired = inbox.expire(now_ms);
        let before = inbox.last;
        let message = Message {
            serial: inbox.next(now_ms),
            from: sender,
            node: node.clone(),
            event: Arc::clone(&letter.event),
            data: letter.data.clone(),
        };
        let weight = message.weight() as u64;
        if inbox.messages.len() as u64 >= quotas.messages_max {
            return Err(SendError::Full(Full::Messages));
        }
        if inbox.bytes + weight > quotas.bytes_max {
            return Err(SendError::Full(Full::Bytes));
        }
        let serial = message.serial;
        let ttl = letter.ttl.map_or(quotas.age_max, |ttl| ttl.min(quotas.age_max));
        let waiting = Waiting { message: message.clone(), expires_ms: now_ms.saturating_add(millis(ttl)) };
        inbox.messages.insert(serial, waiting);
        inbox.bytes += weight;
        inbox.last = serial;
        if let Some(key) = key {
            let known = Known { serial, expires_ms: now_ms.saturating_add(millis(quotas.id_ttl)) };
            inbox.known.insert(key, known);
        }
        let (count, bytes) = (inbox.messages.len() as u64, inbox.bytes);
        Ok((Sent { serial, status: Status::Stored, expired, count, bytes }, Some((message, before))))
    }

    /// The latest serial of an inbox.
    pub(super) fn last(&self, place: &Place) -> Serial {
        self.places.get(place).map_or(Serial::ZERO, |inbox| inbox.last)
    }

    /// See [`OfflineStore::read`](crate::OfflineStore::read).
    pub(super) fn read(&mut self, place: &Place, span: &Span, now_ms: u64) -> Page {
        let until = span.until;
        let Some(inbox) = self.places.get_mut(place) else {
            let upto = until.unwrap_or(Serial::ZERO);
            return Page { messages: Vec::new(), upto, has_more: false, expired: 0 };
        };
        let expired = inbox.expire(now_ms);
        let mut page = Page { messages: Vec::new(), upto: span.after, has_more: false, expired };
        let mut bytes = 0;
        let last = until.unwrap_or(inbox.last);
        let behind = (std::ops::Bound::Excluded(span.after), std::ops::Bound::Included(last));
        // A range that ends where it begins must not exclude its beginning.
        let found = (span.after < last).then(|| inbox.messages.range(behind));
        for (serial, Waiting { message, .. }) in found.into_iter().flatten() {
            bytes += message.weight();
            let is_full = page.messages.len() >= span.messages_max.max(1) || bytes > span.bytes_max;
            if is_full && !page.messages.is_empty() {
                page.has_more = true;
                return page;
            }
            page.messages.push(message.clone());
            page.upto = *serial;
        }
        page.upto = last;
        page
    }

    /// Deletes messages; returns how many there were.
    pub(super) fn settle(&mut self, place: &Place, serials: &[Serial]) -> u64 {
        let Some(inbox) = self.places.get_mut(place) else { return 0 };
        serials.iter().map(|serial| u64::from(inbox.delete(serial))).sum()
    }

    /// See [`OfflineStore::stored`](crate::OfflineStore::stored).
    pub(super) fn stored(&mut self, place: &Place, now_ms: u64) -> Stored {
        let Some(inbox) = self.places.get_mut(place) else { return Stored::default() };
        let expired = inbox.expire(now_ms);
        Stored { count: inbox.messages.len() as u64, bytes: inbox.bytes, expired }
    }

    /// See [`OfflineStore::clear`](crate::OfflineStore::clear).
    pub(super) fn clear(&mut self, place: &Place, now_ms: u64) -> u64 {
        let Some(inbox) = self.places.get_mut(place) else { return 0 };
        inbox.expire(now_ms);
        inbox.bytes = 0;
        std::mem::take(&mut inbox.messages).len() as u64
    }

    /// Now and then forgets what nobody asks for any more.
    fn sweep(&mut self, now_ms: u64) {
        self.sends += 1;
        if self.sends < SENDS_PER_SWEEP {
            return;
        }
        self.sends = 0;
        self.senders.retain(|_, minute| now_ms < minute.began_ms + MINUTE_MS);
        self.places.retain(|_, inbox| {
            inbox.expire(now_ms);
            inbox.known.retain(|_, known| now_ms < known.expires_ms);
            // Who is ready counts from its last serial on, and notices that it begins anew; see `Arrival::before`.
            !inbox.messages.is_empty() || !inbox.known.is_empty() || now_ms < inbox.used_at_ms + MINUTE_MS
        });
    }
}

impl Inbox {
    fn next(&self, now_ms: u64) -> Serial {
        if now_ms > self.last.ms {
            Serial { ms: now_ms, number: 0 }
        } else {
            Serial { ms: self.last.ms, number: self.last.number + 1 }
        }
    }

    fn delete(&mut self, serial: &Serial) -> bool {
        let Some(waiting) = self.messages.remove(serial) else { return false };
        self.bytes -= waiting.message.weight() as u64;
        true
    }

    /// Deletes what has expired; returns how many.
    fn expire(&mut self, now_ms: u64) -> u64 {
        let expired: Vec<Serial> = self
            .messages
            .iter()
            .filter(|(_, waiting)| waiting.expires_ms <= now_ms)
            .map(|(serial, _)| *serial)
            .collect();
        expired.iter().map(|serial| u64::from(self.delete(serial))).sum()
    }
}
