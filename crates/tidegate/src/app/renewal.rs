//! Certificates that change while the process runs: whoever renews them writes new files in place of the old ones.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_gateway::Node;
use tidegate_gateway::tls::Error;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::Tls;

/// How often the files are looked at. A Kubernetes Secret is a link that changes its target, which no watch on a file
/// would see; reading two small files is cheaper than to think about it.
const INTERVAL: Duration = Duration::from_secs(2);

/// Shows what the files hold from the next handshake on, whenever that changes. What cannot be used leaves the certificate
/// before it in place, and is logged and counted once, when it is still there at the next look: files may be caught half-written,
/// or one of two exchanged.
pub(super) async fn watch(tls: Tls, nodes: Vec<Node>, stop: CancellationToken) {
    let watch = Arc::new(Watch { tls, hasher: RandomState::new() });
    let (mut seen, mut doubt) = (None, None);
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let looking = Arc::clone(&watch);
        // Away from the workers, since a disk may hang.
        let looked = tokio::select! {
            looked = tokio::task::spawn_blocking(move || looking.look(seen)) => looked,
            () = stop.cancelled() => return,
        };
        let Ok((mark, outcome)) = looked else { return };
        let is_first = seen.replace(mark).is_none();
        let before = doubt.take();
        match outcome {
            // The first look only closes the gap between the start and now.
            Some(Ok(())) if is_first => {}
            Some(Ok(())) => {
                nodes.iter().for_each(|node| node.certificate_renewed(true));
                tracing::info!("the certificate of the client port was renewed");
            }
            Some(Err(fault)) => doubt = Some(fault),
            None => {
                let Some(fault) = before else { continue };
                nodes.iter().for_each(|node| node.certificate_renewed(false));
                tracing::warn!(fault, "the certificate of the client port could not be renewed");
            }
        }
    }
}

struct Watch {
    tls: Tls,
    hasher: RandomState,
}

impl Watch {
    /// A mark of what the files hold now, and what came of it if that is another than `seen`. The mark stands for a key,
    /// which is not kept.
    fn look(&self, seen: Option<u64>) -> (u64, Option<Result<(), String>>) {
        let Tls { credentials, cert, key } = &self.tls;
        let files = read("server.tls.cert", cert)
            .and_then(|certificates| Ok((certificates, read("server.tls.key", key)?)));
        let mark = self.hasher.hash_one(&files);
        if seen == Some(mark) {
            return (mark, None);
        }
        let outcome = files.and_then(|(certificates, key)| {
            credentials.renew(&certificates, &key).map_err(|fault| match fault {
                Error::Certificate(fault) => format!("server.tls.cert {fault}"),
                Error::Key(fault) => format!("server.tls.key {fault}"),
            })
        });
        (mark, Some(outcome))
    }
}

fn read(setting: &str, file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|fault: io::Error| format!("{setting} cannot be read: {fault}"))
}
