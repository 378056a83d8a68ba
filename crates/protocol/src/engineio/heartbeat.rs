//! The server's side of the heartbeat: when to ping, when to give up.

/// The heartbeat of one session.
///
/// The server pings `interval` after the session was opened and `interval` after every pong; the client has `timeout`
/// to answer. All times are milliseconds of one monotonic clock of the caller's choice.
///
/// Three rules go beyond the protocol's text:
/// - A packet other than a pong, received while a pong is awaited, starts the timeout anew, once per ping: a client
///   that is busy sending is not dead. (`engine.io` 6.6.12.)
/// - A ping that leaves late does not move the timeout: it counts from when the ping was due, so that a dead client
///   is found exactly `interval + timeout` after its last pong, whatever the caller's timer resolution. At least half
///   the timeout is left to the client, should the caller have stalled.
/// - What arrives is believed, even after the deadline, as long as [`Heartbeat::poll`] has not said
///   [`Beat::Dead`]. A caller that was frozen should read its socket before it polls.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// When the ping leaves, or when the client counts as dead.
    due_ms: u64,
    interval_ms: u32,
    timeout_ms: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until the next ping.
    Resting,
    /// A ping is out.
    Waiting,
    /// A ping is out, and its timeout was extended already.
    Extended,
    Dead,
}

/// What the heartbeat wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// Nothing before this time, in milliseconds of the caller's clock. A packet may move it in either direction.
    Wait(u64),
    /// Send a ping now, and poll again for when to come back.
    Ping,
    /// The client has not answered: close with `ping timeout`. Stays so.
    Dead,
}

impl Heartbeat {
    /// The heartbeat of a session opened at `now_ms`.
    #[must_use]
    pub const fn new(now_ms: u64, interval_ms: u32, timeout_ms: u32) -> Self {
        Self {
            due_ms: now_ms.saturating_add(interval_ms as u64),
            interval_ms,
            timeout_ms,
            state: State::Resting,
        }
    }

    /// A packet of the client's arrived. A pong that nobody asked for restarts the interval as well.
    pub const fn on_packet(&mut self, now_ms: u64, is_pong: bool) {
        match self.state {
            State::Dead => {}
            _ if is_pong => {
                self.due_ms = now_ms.saturating_add(self.interval_ms as u64);
                self.state = State::Resting;
            }
            State::Waiting => {
                self.due_ms = now_ms.saturating_add(self.timeout_ms as u64);
                self.state = State::Extended;
            }
            State::Resting | State::Extended => {}
        }
    }

    /// What is to be done at `now_ms`.
    pub fn poll(&mut self, now_ms: u64) -> Beat {
        match self.state {
            State::Dead => Beat::Dead,
            _ if now_ms < self.due_ms => Beat::Wait(self.due_ms),
            State::Resting => {
                let timeout_ms = u64::from(self.timeout_ms);
                let on_time_ms = self.due_ms.saturating_add(timeout_ms);
                let at_least_ms = now_ms.saturating_add(timeout_ms.div_ceil(2));
                self.due_ms = on_time_ms.max(at_least_ms);
                self.state = State::Waiting;
                Beat::Ping
            }
            State::Waiting | State::Extended => {
                self.state = State::Dead;
                Beat::Dead
            }
        }
    }

    /// The session moved to a WebSocket at `now_ms`.
    ///
    /// The interval runs on. An awaited pong gets the whole timeout anew, since the ping may have to be sent again on
    /// the new transport. A stock server cancels the timeout and then never pings again until a pong comes: a client
    /// that dies in that moment would stay for ever.
    pub const fn upgraded(&mut self, now_ms: u64) {
        if matches!(self.state, State::Waiting | State::Extended) {
            self.due_ms = now_ms.saturating_add(self.timeout_ms as u64);
            self.state = State::Waiting;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Interval and timeout of the protocol's compliance suite.
    fn at_zero() -> Heartbeat {
        Heartbeat::new(0, 300, 200)
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Heartbeat>() <= 24);
    }

    #[test]
    fn a_silent_client_is_dead_exactly_after_interval_and_timeout() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(0), Beat::Wait(300));
        assert_eq!(heartbeat.poll(299), Beat::Wait(300));
        assert_eq!(heartbeat.poll(300), Beat::Ping);
        assert_eq!(heartbeat.poll(300), Beat::Wait(500));
        assert_eq!(heartbeat.poll(499), Beat::Wait(500));
        assert_eq!(heartbeat.poll(500), Beat::Dead);
        assert_eq!(heartbeat.poll(501), Beat::Dead);
    }

    #[test]
    fn a_pong_restarts_the_interval() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(300), Beat::Ping);
        heartbeat.on_packet(320, true);
        assert_eq!(heartbeat.poll(320), Beat::Wait(620));
        assert_eq!(heartbeat.poll(620), Beat::Ping);
        assert_eq!(heartbeat.poll(820), Beat::Dead);
    }

    #[test]
    fn a_pong_nobody_asked_for_restarts_the_interval_too() {
        let mut heartbeat = at_zero();
        heartbeat.on_packet(100, true);
        assert_eq!(heartbeat.poll(300), Beat::Wait(400));
    }

    #[test]
    fn one_packet_during_the_wait_extends_it() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(300), Beat::Ping);
        heartbeat.on_packet(400, false);
        assert_eq!(heartbeat.poll(500), Beat::Wait(600));
        assert_eq!(heartbeat.poll(600), Beat::Dead);
    }

    #[test]
    fn a_client_that_sends_but_never_pongs_dies_all_the_same() {
        let mut heartbeat = at_zero();
        let mut died_at = None;
        for now in 0..1000 {
            if now % 50 == 5 {
                heartbeat.on_packet(now, false);
            }
            if heartbeat.poll(now) == Beat::Dead {
                died_at = Some(now);
                break;
            }
        }
        assert_eq!(died_at, Some(505));
    }

    #[test]
    fn the_extension_is_granted_once_for_every_ping() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(300), Beat::Ping);
        heartbeat.on_packet(400, false);
        heartbeat.on_packet(450, true);
        assert_eq!(heartbeat.poll(750), Beat::Ping);
        heartbeat.on_packet(800, false);
        assert_eq!(heartbeat.poll(800), Beat::Wait(1000));
    }

    #[test]
    fn packets_between_pings_change_nothing() {
        let mut heartbeat = at_zero();
        heartbeat.on_packet(200, false);
        assert_eq!(heartbeat.poll(200), Beat::Wait(300));
    }

    #[test]
    fn a_late_ping_does_not_move_the_deadline() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(310), Beat::Ping);
        assert_eq!(heartbeat.poll(310), Beat::Wait(500));
    }

    #[test]
    fn after_a_stall_half_the_timeout_is_left() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(60_000), Beat::Ping);
        assert_eq!(heartbeat.poll(60_000), Beat::Wait(60_100));
    }

    #[test]
    fn a_pong_read_after_the_deadline_counts_until_the_verdict_is_spoken() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(300), Beat::Ping);
        heartbeat.on_packet(900, true);
        assert_eq!(heartbeat.poll(900), Beat::Wait(1200));

        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(300), Beat::Ping);
        assert_eq!(heartbeat.poll(500), Beat::Dead);
        heartbeat.on_packet(501, true);
        heartbeat.upgraded(501);
        assert_eq!(heartbeat.poll(501), Beat::Dead);
    }

    #[test]
    fn an_upgrade_leaves_the_interval_alone() {
        let mut heartbeat = at_zero();
        heartbeat.upgraded(200);
        assert_eq!(heartbeat.poll(200), Beat::Wait(300));
    }

    #[test]
    fn an_upgrade_gives_an_awaited_pong_the_whole_timeout() {
        let mut heartbeat = at_zero();
        assert_eq!(heartbeat.poll(300), Beat::Ping);
        heartbeat.upgraded(450);
        assert_eq!(heartbeat.poll(500), Beat::Wait(650));
        heartbeat.on_packet(600, true);
        assert_eq!(heartbeat.poll(600), Beat::Wait(900));
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let mut heartbeat = Heartbeat::new(u64::MAX - 1, u32::MAX, u32::MAX);
        assert_eq!(heartbeat.poll(u64::MAX - 1), Beat::Wait(u64::MAX));
        assert_eq!(heartbeat.poll(u64::MAX), Beat::Ping);
        heartbeat.on_packet(u64::MAX, false);
        heartbeat.upgraded(u64::MAX);
    }

    proptest! {
        /// However often it is polled and whatever but a pong is sent: no ping comes twice without a pong, and death
        /// comes in time.
        #[test]
        fn without_a_pong_there_is_one_ping_and_an_end(steps in prop::collection::vec((0u64..60, any::<bool>()), 1..60)) {
            let mut heartbeat = at_zero();
            let (mut now, mut pings, mut dead) = (0, 0, false);
            for (step, packet) in steps {
                now += step;
                if packet {
                    heartbeat.on_packet(now, false);
                }
                match heartbeat.poll(now) {
                    Beat::Wait(until) => {
                        prop_assert!(!dead && until > now && until <= 300 + 60 + 200 + 200);
                    }
                    Beat::Ping => pings += 1,
                    Beat::Dead => {
                        prop_assert!(now >= 500);
                        dead = true;
                    }
                }
            }
            prop_assert!(pings <= 1);
            prop_assert!(dead || now < 300 + 60 + 200 + 200 + 60);
        }
    }
}
