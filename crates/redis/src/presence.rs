//! Who is in which room. The rooms of a namespace are spread over buckets by their names, so that one script touches
//! one slot of a cluster and a list of rooms is still read from a few keys.

use redis::Cmd;
use tidegate_core::registry::{Announce, Change, Error, Listed, Occupied, Page, Stay};
use tidegate_core::{Namespace, NodeId, Room, SessionId};
use tidegate_msgpack::Reader;

use crate::adapter::Envelope;
use crate::index;
use crate::keys::{BUCKETS, bucket};
use crate::registry::Registry;
use crate::scripts::BATCH_MAX;

impl Registry {
    pub(crate) async fn enter(&self, stays: &[Stay], announce: Option<Announce>) -> Result<(), Error> {
        for batch in stays.chunks(BATCH_MAX) {
            let mut index = redis::cmd("SADD");
            index.arg(&self.stays_key).arg(batch.iter().map(index::stay).collect::<Vec<_>>());
            let mut commands = vec![index];
            commands.extend(batch.iter().map(|stay| {
                let (room, rooms) = self.presence_keys(stay);
                let mut command = self.scripts.verbs.enter.on(&[&room, &rooms]);
                command
                    .arg(stay.room.as_str())
                    .arg(&*stay.user)
                    .arg(stay.session.as_str())
                    .arg(&*stay.device)
                    .arg(stay.node.as_str());
                self.add_announcement(&mut command, announce, true, stay);
                command
            }));
            self.scripts.ask("presence", commands).await?;
        }
        Ok(())
    }

    /// Writes down that `stays` are over, and then that there is nothing left to clear away.
    pub(crate) async fn leave(&self, stays: &[Stay], announce: Option<Announce>) -> Result<(), Error> {
        for batch in stays.chunks(BATCH_MAX) {
            self.depart("presence", batch, None, announce).await?;
            let mut index = redis::cmd("SREM");
            index.arg(&self.stays_key).arg(batch.iter().map(index::stay).collect::<Vec<_>>());
            self.scripts.ask("presence", vec![index]).await?;
        }
        Ok(())
    }

    /// Writes down that `stays`, at most [`BATCH_MAX`], are over. With `since`, in Unix ms by the clock of Redis, it
    /// spares those that began from then on. Returns which were not spared.
    pub(crate) async fn depart(
        &self,
        label: &'static str,
        stays: &[Stay],
        since: Option<u64>,
        announce: Option<Announce>,
    ) -> Result<Vec<bool>, Error> {
        let since = since.map_or_else(String::new, |since| since.to_string());
        let commands = stays.iter().map(|stay| {
            let (room, rooms) = self.presence_keys(stay);
            let mut command = self.scripts.verbs.depart.on(&[&room, &rooms]);
            command.arg(stay.room.as_str()).arg(&*stay.user).arg(stay.session.as_str()).arg(&since);
            self.add_announcement(&mut command, announce, false, stay);
            command
        });
        let mut answers = self.scripts.ask(label, commands.collect()).await?;
        stays.iter().map(|_| Ok(self.scripts.next::<u64>(&mut answers)? != 3)).collect()
    }

    pub(crate) async fn members(
        &self,
        namespace: &Namespace,
        room: &Room,
        page: &Page,
    ) -> Result<Listed<Stay>, Error> {
        let Some(cursor) = page.after.as_deref().map_or(Some(0), |after| after.parse().ok()) else {
            return Ok(Listed { items: Vec::new(), next: None });
        };
        let command = scan(&self.keys.room(namespace, room), cursor, page.limit);
        let (next, users): (u64, Vec<(String, Vec<u8>)>) = self.scripts.ask_one("presence", command).await?;
        let mut items = Vec::new();
        for (user, value) in users {
            // What cannot be read is nobody's stay, and no reason to list none of the others.
            let stays = read_stays(&value).unwrap_or_default();
            items.extend(stays.into_iter().map(|(session, device, node)| Stay {
                namespace: namespace.clone(),
                room: room.clone(),
                user: user.as_str().into(),
                device: device.into(),
                session,
                node,
            }));
        }
        Ok(Listed { items, next: (next != 0).then(|| next.to_string()) })
    }

    /// Two round trips a page: one asks how much there is in each bucket, the other reads as many as make a page.
    pub(crate) async fn rooms(&self, namespace: &Namespace, page: &Page) -> Result<Listed<Occupied>, Error> {
        let Some((first, cursor)) = page.after.as_deref().map_or(Some((0, 0)), read_place_in_rooms) else {
            return Ok(Listed { items: Vec::new(), next: None });
        };
        let keys: Vec<_> = (first..BUCKETS).map(|bucket| self.keys.rooms(namespace, bucket)).collect();
        let lengths = keys.iter().map(|key| {
            let mut command = redis::cmd("HLEN");
            command.arg(key);
            command
        });
        let mut answers = self.scripts.ask("presence", lengths.collect()).await?;
        let (mut scans, mut scanned, mut expected) = (Vec::new(), Vec::new(), 0);
        for (bucket, key) in (first..BUCKETS).zip(&keys) {
            let length: usize = self.scripts.next(&mut answers)?;
            let cursor = if bucket == first { cursor } else { 0 };
            if length > 0 && expected < page.limit.max(1) {
                expected += length;
                scans.push(scan(key, cursor, page.limit));
                scanned.push(bucket);
            } else if length > 0 {
                scanned.push(bucket);
                break;
            }
        }
        let reads = scans.len();
        if reads == 0 {
            return Ok(Listed { items: Vec::new(), next: None });
        }
        let mut answers = self.scripts.ask("presence", scans).await?;
        let mut items = Vec::new();
        for &bucket in &scanned[..reads] {
            let (next, rooms): (u64, Vec<(String, u64)>) = self.scripts.next(&mut answers)?;
            items.extend(rooms.into_iter().map(|(room, users)| Occupied { room: room.into(), users }));
            if next != 0 {
                return Ok(Listed { items, next: Some(format!("{bucket}.{next}")) });
            }
        }
        Ok(Listed { items, next: scanned.get(reads).map(|bucket| format!("{bucket}.0")) })
    }

    fn presence_keys(&self, stay: &Stay) -> (String, String) {
        let room = self.keys.room(&stay.namespace, &stay.room);
        (room, self.keys.rooms(&stay.namespace, bucket(&stay.room)))
    }

    /// Where and how it is announced that the user of `stay` came or left, ready to be published by a script.
    fn add_announcement(&self, command: &mut Cmd, announce: Option<Announce>, joined: bool, stay: &Stay) {
        match announce {
            Some(Announce(make)) => {
                let publication = make(&Change { joined, stay });
                command
                    .arg(self.keys.topic_channel(&publication.topic()))
                    .arg(Envelope::of(&publication, &self.uid).encode());
            }
            None => {
                command.arg("").arg("");
            }
        }
    }
}

fn scan(key: &str, cursor: u64, count: usize) -> Cmd {
    let mut command = redis::cmd("HSCAN");
    command.arg(key).arg(cursor).arg("COUNT").arg(count.max(1));
    command
}

/// Where a page of rooms ended: a bucket and a cursor within it.
fn read_place_in_rooms(text: &str) -> Option<(u32, u64)> {
    let (bucket, cursor) = text.split_once('.')?;
    let bucket = bucket.parse().ok().filter(|bucket| *bucket < BUCKETS)?;
    Some((bucket, cursor.parse().ok()?))
}

/// A user's stays in a room, as `lua/enter.lua` writes them.
fn read_stays(value: &[u8]) -> Option<Vec<(SessionId, String, NodeId)>> {
    let mut reader = Reader::new(value);
    let count = reader.array().ok()? / 4;
    (0..count)
        .map(|_| {
            let session = SessionId::parse(reader.str().ok()?)?;
            let device = reader.str().ok()?.to_owned();
            let node = NodeId::parse(reader.str().ok()?).ok()?;
            let _entered_ms = reader.uint().ok()?;
            Some((session, device, node))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stays_are_read_as_scripts_write_them() {
        let value = b"\x98\xb4sssssssssssssssssss1\xa5phone\xa1a\xcf\x00\x00\x01\x9a\x00\x00\x00\x00\
            \xb4sssssssssssssssssss2\xa0\xa1b\x07";
        let session = |text| SessionId::parse(text).unwrap();
        let node = |text| NodeId::parse(text).unwrap();
        let expected = [
            (session("sssssssssssssssssss1"), "phone".to_owned(), node("a")),
            (session("sssssssssssssssssss2"), String::new(), node("b")),
        ];
        assert_eq!(read_stays(value).unwrap(), expected);
    }

    #[test]
    fn only_places_that_exist_are_continued() {
        assert_eq!(read_place_in_rooms("15.7"), Some((15, 7)));
        for bad in ["", "1", "16.0", "-1.0", "1.x", "1.2.3", "1.18446744073709551616"] {
            assert_eq!(read_place_in_rooms(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_stays(&bytes);
        }
    }
}
