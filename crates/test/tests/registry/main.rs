//! The registry port and the offline port, each held to one contract: in memory, on a real Redis, and on one that insists on the rules of a
//! Redis Cluster.

#![allow(clippy::unwrap_used, reason = "a failed expectation is what a test is for")]

mod inbox_model;
mod model;
mod redis;

use std::sync::{Arc, Mutex};

use tidegate_core::memory::Exchange;
use tidegate_core::registry::{Gone, SessionRegistry};
use tidegate_core::{Incarnation, NodeId, Subscriber};
use tidegate_test::broker_suite::Recorder;
use tidegate_test::offline_suite;
use tidegate_test::redis_server::RedisServer;
use tidegate_test::registry_suite::{Cluster, Node, Stores, checks, claims, fence_after, nodes, presence};

use crate::redis::RedisCluster;

/// Nodes on an exchange. It remembers who they are, to make the registry forget what they have.
#[derive(Default)]
struct MemoryCluster {
    exchange: Exchange,
    registries: Mutex<Vec<Arc<dyn SessionRegistry>>>,
    of_the_dead: Mutex<Vec<Gone>>,
}

impl Cluster for MemoryCluster {
    async fn join(&self, name: &str) -> Node {
        let recorder = Arc::new(Recorder::default());
        let (node, incarnation) = (NodeId::parse(name).unwrap(), Incarnation::random());
        let subscriber = Arc::clone(&recorder) as Arc<dyn Subscriber>;
        let broker = self.exchange.join(node.clone(), incarnation.clone(), subscriber);
        let registry = self.exchange.registry(node.clone(), incarnation.clone(), fence_after(&node));
        self.registries.lock().unwrap().push(Arc::clone(&registry));
        let (exchange, id, run) = (self.exchange.clone(), node.clone(), incarnation.clone());
        let stores = Stores(Arc::new(move |quotas| exchange.offline(id.clone(), run.clone(), quotas)));
        Node { broker, registry, stores, recorder, node, incarnation }
    }

    async fn join_lapsed(&self, name: &str) -> Node {
        // A lease that was never taken is as good as one that is over.
        let late = self.join(name).await;
        late.registry.tend(None).await.unwrap();
        late
    }

    async fn crash(&self, node: Node) {
        let left = node.registry.held().await.unwrap();
        self.of_the_dead.lock().unwrap().extend(left);
        drop(node);
    }

    async fn lose_everything(&self) {
        let registries = self.registries.lock().unwrap().clone();
        let mut lost = std::mem::take(&mut *self.of_the_dead.lock().unwrap());
        let mut alive = None;
        for registry in registries {
            // Of those that are gone, nothing is heard.
            if let Ok(held) = registry.held().await {
                lost.extend(held);
                alive = Some(registry);
            }
        }
        if let Some(registry) = alive {
            registry.release(lost).await.unwrap();
        }
    }
}

#[test]
fn the_model_holds_in_memory() {
    model::holds(400, MemoryCluster::default);
}

#[test]
fn the_model_holds_on_redis() {
    let server = Arc::new(RedisServer::start());
    model::holds(40, || RedisCluster::on(&server));
}

#[test]
fn the_model_of_inboxes_holds_in_memory() {
    inbox_model::holds(400, MemoryCluster::default);
}

#[test]
fn the_model_of_inboxes_holds_on_redis() {
    let server = Arc::new(RedisServer::start());
    inbox_model::holds(40, || RedisCluster::on(&server));
}

macro_rules! contract {
    ($($suite:ident: $($test:ident),*;)*) => {
        mod in_memory {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$suite::$test(&super::MemoryCluster::default()).await;
            })*)*
        }
        mod on_redis {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$suite::$test(&super::RedisCluster::start()).await;
            })*)*
        }
        /// One after the other on one server: such a one takes its time to start.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn on_the_rules_of_a_redis_cluster() {
            let server = Arc::new(RedisServer::start_cluster());
            $($(
                println!("{}", stringify!($test));
                $suite::$test(&RedisCluster::on(&server)).await;
            )*)*
        }
    };
}

contract! {
    checks:
        a_lost_session_counts_with_the_others,
        a_lost_session_displaces_older_ones,
        a_lost_session_is_put_back,
        a_lost_session_loses_to_newer_ones,
        a_session_taken_for_dead_loses_to_newer_ones,
        many_are_checked_at_once,
        verdicts_come_in_order;
    claims:
        a_confirmation_reaches_who_waits,
        a_dead_nodes_session_makes_room,
        a_kick_ends_sessions,
        a_newcomer_displaces_its_device,
        a_newcomer_displaces_the_oldest,
        a_newcomer_may_be_refused,
        who_comes_back_displaces_nobody_else,
        who_comes_back_twice_is_not_in_its_own_way,
        a_refresh_is_found,
        a_stale_claim_does_nothing,
        an_eviction_is_heard_before_the_next_pulse,
        claiming_again_changes_nothing,
        epochs_order_claims,
        every_name_is_a_place_of_its_own,
        racing_claims_leave_as_many_as_may_live,
        racing_claims_that_may_be_refused_leave_one,
        the_mark_outlives_the_winner,
        without_a_limit_nobody_goes;
    nodes:
        a_dead_node_is_reaped_once,
        a_live_node_is_never_reaped,
        a_node_knows_where_it_stands,
        a_node_taken_for_dead_hears_so,
        a_restarted_node_leaves_its_past_to_the_reaper,
        closing_leaves_nothing,
        held_is_what_was_not_released,
        stays_are_what_did_not_end,
        nodes_are_listed_as_they_say_they_are;
    offline_suite:
        a_device_settles_for_all,
        a_full_inbox_refuses,
        a_key_stores_once,
        a_large_message_is_read,
        a_sender_has_its_minute,
        a_stale_claim_does_nothing_in_an_inbox,
        clearing_leaves_nothing_that_waits,
        every_name_has_an_inbox_of_its_own,
        pages_follow_each_other,
        racing_senders_are_put_in_one_order,
        ready_stays_ready,
        what_expires_makes_room,
        what_is_sent_is_read_in_order,
        who_is_ready_is_told;
    presence:
        a_user_is_announced_once,
        entering_may_be_silent,
        every_name_is_listed_as_it_is,
        lists_come_in_pages,
        racing_sessions_are_announced_once;
}
