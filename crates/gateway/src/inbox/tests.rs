//! The inbox of one session, by itself.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

use std::sync::Arc;

use tidegate_core::memory::Exchange;
use tidegate_msgpack::write;

use super::*;
use crate::outbox::Poll;
use crate::rig::Rig;

fn serial(ms: u64) -> Serial {
    Serial { ms, number: 0 }
}

fn stored(ms: u64, data: &str) -> Stored {
    let mut value = Vec::new();
    write::str(&mut value, data);
    Stored {
        serial: serial(ms),
        from: None,
        node: tidegate_core::NodeId::parse("a").unwrap(),
        event: "e".into(),
        data: value.into(),
    }
}

fn page(messages: Vec<Stored>, upto: u64) -> Page {
    Page { messages, upto: serial(upto), has_more: false, expired: 0 }
}

fn arrival(before: u64, message: Stored) -> Arrival {
    Arrival {
        namespace: "/".into(),
        sessions: Vec::new(),
        before: serial(before),
        serial: message.serial,
        message: Some(message),
    }
}

/// What waits for the client of a polling session.
fn polled(session: &Session) -> String {
    match session.outbox.poll() {
        Poll::Ready(payload) => String::from_utf8(payload.to_vec()).unwrap(),
        _ => String::new(),
    }
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

/// A node and a session without anything in its inbox, which has heard so.
async fn live(settling: Settling) -> (Rig, Arc<Session>) {
    let rig = Rig::start(&Exchange::new(), "a").await;
    let session = rig.seat("ann").await;
    session.inbox.begin(settling, Serial::ZERO, &rig.inner().window(), 0);
    for _ in 0..2 {
        let wanted = session.inbox.wanted(&rig.inner().window(), &session.outbox).unwrap();
        session.inbox.read(rig.inner(), &session, &wanted, &page(vec![], 0));
    }
    assert_eq!(session.inbox.wanted(&rig.inner().window(), &session.outbox), None);
    assert_eq!(count(&polled(&session), r#"["offline_message_ack",{"count":0}]"#), 1);
    (rig, session)
}

#[tokio::test]
async fn nothing_is_given_twice_while_a_page_is_on_its_way() {
    let (rig, session) = live(Settling::Each).await;
    let node = rig.inner();
    session.inbox.fall_behind();
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    // Stored after the page was read, and heard of before it came.
    session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
    session.inbox.read(node, &session, &wanted, &page(vec![], 0));
    assert_eq!(polled(&session), "");
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    assert_eq!(wanted.span.after, Serial::ZERO);
    session.inbox.read(node, &session, &wanted, &page(vec![stored(1, "one"), stored(2, "two")], 2));
    session.inbox.arrived(node, &session, &arrival(2, stored(3, "three")));
    let given = polled(&session);
    for data in ["one", "two", "three"] {
        assert_eq!(count(&given, data), 1, "{given}");
    }
    // A late word of something that was read: a look, and nothing more.
    session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    assert_eq!(wanted.span.after, serial(3));
    session.inbox.read(node, &session, &wanted, &page(vec![], 3));
    assert_eq!(polled(&session), "");
    rig.node.drain().await;
}

#[tokio::test]
async fn an_inbox_that_began_anew_is_read_from_its_beginning() {
    let (rig, session) = live(Settling::Each).await;
    let node = rig.inner();
    session.inbox.arrived(node, &session, &arrival(0, stored(7, "old")));
    session.inbox.arrived(node, &session, &arrival(0, stored(3, "new")));
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    session.inbox.read(node, &session, &wanted, &page(vec![], 3));
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    assert_eq!(wanted.span.after, Serial::ZERO);
    session.inbox.read(node, &session, &wanted, &page(vec![stored(3, "new")], 3));
    let given = polled(&session);
    assert_eq!((count(&given, "old"), count(&given, "new")), (1, 1), "{given}");
    session.inbox.arrived(node, &session, &arrival(3, stored(4, "newer")));
    assert_eq!(count(&polled(&session), "newer"), 1);
    rig.node.drain().await;
}

#[tokio::test]
async fn what_does_not_fit_waits_in_the_store() {
    let (rig, session) = live(Settling::Each).await;
    let node = rig.inner();
    // Each of these takes six times as much in JSON; the outbox is bounded by a mebibyte.
    let large = |ms| stored(ms, &"\u{1}".repeat(40_000));
    session.inbox.fall_behind();
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    session.inbox.read(node, &session, &wanted, &page((1..=10).map(large).collect(), 10));
    assert_eq!(session.outbox.closed(), None);
    assert!(!session.outbox.has_room_for(240_000));
    // Nothing more is read before something has left.
    assert_eq!(session.inbox.wanted(&node.window(), &session.outbox), None);
    assert_eq!(count(&polled(&session), r#"["e""#), 2);
    assert!(session.outbox.take_news(), "the courier is woken");
    // The window counts what it really takes, too.
    assert_eq!(
        session.inbox.wanted(&node.window(), &session.outbox).map(|wanted| wanted.span.after),
        Some(serial(2))
    );
    rig.node.drain().await;
}

#[tokio::test]
async fn what_was_not_written_is_not_settled() {
    let (rig, session) = live(Settling::Written).await;
    let node = rig.inner();
    session.outbox.take_news();
    session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
    assert_eq!(session.inbox.written(&session), (false, true));
    assert!(!session.inbox.is_to_be_queued());
    assert!(!session.outbox.take_news(), "nothing has left");
    assert_eq!(count(&polled(&session), "one"), 1);
    assert!(session.outbox.take_news());
    assert_eq!(session.inbox.written(&session), (true, false));
    assert!(session.inbox.is_to_be_queued());
    assert!(!session.inbox.is_to_be_queued(), "once is enough");
    assert_eq!(session.inbox.settle(), [serial(1)]);
    // What closes the connection does not write it out.
    session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
    session.outbox.close(tidegate_core::DisconnectReason::SlowConsumer);
    assert_eq!(session.inbox.written(&session), (false, true));
    rig.node.drain().await;
}

#[tokio::test]
async fn rounds_have_their_rate() {
    let rig = Rig::start(&Exchange::new(), "a").await;
    let session = rig.seat("ann").await;
    let begin = |now_ms| {
        let may = session.inbox.allows_round(now_ms);
        if may {
            session.inbox.begin(Settling::Each, Serial::ZERO, &rig.inner().window(), now_ms);
        }
        may
    };
    let begun = |at: u64| (0..100).filter(|_| begin(at)).count();
    assert_eq!(begun(0), 16);
    assert_eq!((begun(499), begun(500), begun(1_000)), (0, 1, 1));
    assert_eq!(begun(60_000), 16);
    rig.node.drain().await;
}

#[tokio::test]
async fn an_acknowledgement_of_an_earlier_round_counts() {
    let (rig, session) = live(Settling::Each).await;
    let node = rig.inner();
    let first = node.acknowledgements.next_id() + 1;
    session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
    session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
    session.inbox.begin(Settling::Each, serial(2), &node.window(), 0);
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    session.inbox.read(node, &session, &wanted, &page(vec![stored(1, "one"), stored(2, "two")], 2));
    assert_eq!(count(&polled(&session), "one"), 2, "it is given again");
    assert!(session.inbox.acknowledged(Receipt::Packet(first)));
    assert_eq!(session.inbox.settle(), [serial(1)]);
    session.inbox.settled(Some(Settled::Deleted(1)));
    // Once is enough.
    assert!(!session.inbox.acknowledged(Receipt::Packet(first + 2)));
    assert!(session.inbox.acknowledged(Receipt::Packet(first + 3)));
    assert_eq!(session.inbox.settle(), [serial(2)]);
    // Two rounds later still; but not for ever.
    session.inbox.begin(Settling::Each, serial(2), &node.window(), 0);
    assert!(session.inbox.acknowledged(Receipt::Packet(first + 1)));
    let few = Window { messages_max: 0, ..node.window() };
    session.inbox.begin(Settling::Each, serial(2), &few, 0);
    assert!(!session.inbox.acknowledged(Receipt::Packet(first + 3)));
    rig.node.drain().await;
}

#[tokio::test]
async fn a_message_is_acknowledged_by_its_own_id_in_any_round() {
    let (rig, session) = live(Settling::Each).await;
    let node = rig.inner();
    let receipt = |ms| Receipt::Message(serial(ms));
    for ms in 1..=3 {
        session.inbox.arrived(node, &session, &arrival(ms - 1, stored(ms, "m")));
    }
    assert!(session.inbox.acknowledged(receipt(2)) && !session.inbox.acknowledged(receipt(2)));
    assert!(!session.inbox.acknowledged(receipt(4)));
    assert_eq!(session.inbox.settle(), [serial(2)]);
    session.inbox.settled(Some(Settled::Deleted(1)));
    // In the next round the first is given again, and the third is not yet.
    session.inbox.begin(Settling::Each, serial(3), &node.window(), 0);
    let wanted = session.inbox.wanted(&node.window(), &session.outbox).unwrap();
    session.inbox.read(node, &session, &wanted, &page(vec![stored(1, "m")], 1));
    assert!(session.inbox.acknowledged(receipt(1)) && session.inbox.acknowledged(receipt(3)));
    assert_eq!(session.inbox.settle(), [serial(1), serial(3)]);
    rig.node.drain().await;
}

#[tokio::test]
async fn what_was_acknowledged_is_unsettled_until_the_store_says_so() {
    let (rig, session) = live(Settling::Each).await;
    let node = rig.inner();
    let is_unsettled = || matches!(session.inbox.unsettled(), Unsettled::Something(_));
    let first = node.acknowledgements.next_id() + 1;
    session.inbox.arrived(node, &session, &arrival(0, stored(1, "one")));
    session.inbox.arrived(node, &session, &arrival(1, stored(2, "two")));
    assert!(!session.inbox.acknowledged(Receipt::Packet(first - 1)) && !is_unsettled());
    assert!(session.inbox.acknowledged(Receipt::Packet(first + 1)) && is_unsettled());
    assert_eq!(session.inbox.settle(), [serial(2)]);
    assert!(
        session.inbox.acknowledged(Receipt::Packet(first))
            && !session.inbox.acknowledged(Receipt::Packet(first))
    );
    // Nobody answers; then the registry does not know the session.
    for outcome in [None, Some(Settled::Absent)] {
        session.inbox.settled(outcome);
        assert!(is_unsettled());
        assert_eq!(session.inbox.settle(), [serial(2), serial(1)]);
    }
    // Also over a new round.
    session.inbox.begin(Settling::Each, Serial::ZERO, &node.window(), 0);
    assert!(is_unsettled());
    session.inbox.settled(Some(Settled::Deleted(1)));
    assert!(matches!(session.inbox.unsettled(), Unsettled::Nothing));
    session.inbox.settled(Some(Settled::Displaced));
    assert!(matches!(session.inbox.unsettled(), Unsettled::Lost));
    rig.node.drain().await;
}
